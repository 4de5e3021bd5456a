package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/test/internal/rig"
)

// TestWhatFailsIsFoundThoughTheNextAttemptSucceeds has a service that is in trouble once, and cuts a connection once.
func TestWhatFailsIsFoundThoughTheNextAttemptSucceeds(t *testing.T) {
	t.Parallel()
	for name, trouble := range map[string]func(http.ResponseWriter){
		"503":     func(w http.ResponseWriter) { w.WriteHeader(http.StatusServiceUnavailable) },
		"cut off": func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
	} {
		var asked atomic.Int64
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if asked.Add(1) == 2 { // on a connection that was used before
				trouble(w)
			}
		}))
		t.Cleanup(server.Close)
		var j judge
		here := []replica{{name: "one", address: strings.TrimPrefix(server.URL, "http://")}}
		s := &sender{http: server.Client(), random: newRandom(1, 1), replicas: map[string][]replica{"audit": here}, judge: j.see}
		for range 3 {
			s.send(t.Context(), request{service: "audit", method: http.MethodGet, path: "/"})
		}
		times, found := j.verdict()
		require.Equal(t, 3, times, name)
		require.Len(t, found, 1, name)
		require.Contains(t, found[0].what, "GET / at one", name)
		require.NotEmpty(t, found[0].requests, name)
	}
}

func TestWhoDoesLessThanHalfOfItsPartIsFound(t *testing.T) {
	t.Parallel()
	replicas := func(first, second, third int64) map[string]rig.Work {
		return map[string]rig.Work{"token": {Public: first}, "token-2": {Public: second}, "token-3": {Public: third}}
	}
	for name, c := range map[string]struct {
		done   map[string]rig.Work
		idle   int
		enough bool
	}{
		"equal":           {done: replicas(20, 20, 20), enough: true},
		"half of a part":  {done: replicas(10, 25, 25), enough: true},
		"less than that":  {done: replicas(9, 25, 26), idle: 1, enough: true},
		"one alone":       {done: replicas(60, 0, 0), idle: 2, enough: true},
		"too little":      {done: replicas(20, 20, 19)},
		"nothing":         {done: replicas(0, 0, 0)},
		"one of a single": {done: map[string]rig.Work{"token": {Public: 60}}, enough: true},
		"events by one": {
			done:   map[string]rig.Work{"audit": {Public: 30, Stored: 900}, "audit-2": {Public: 30}},
			idle:   1,
			enough: true,
		},
	} {
		idle, enough := unfair(c.done)
		require.Len(t, idle, c.idle, name)
		require.Equal(t, c.enough, enough, name)
	}
}

func TestALimitThatIsNotKeptExactlyIsFound(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		issued, answered, unlimited int64
		late                        time.Duration
		found                       int
	}{
		"exact":                           {issued: tokensPerMonth, answered: requestsPerMinute},
		"a token too many":                {issued: tokensPerMonth + 1, answered: requestsPerMinute, found: 1},
		"a token too few":                 {issued: tokensPerMonth - 1, answered: requestsPerMinute, found: 1},
		"a request too many":              {issued: tokensPerMonth, answered: requestsPerMinute + 1, found: 1},
		"a request too few":               {issued: tokensPerMonth, answered: requestsPerMinute - 1, found: 1},
		"one that was not counted":        {issued: tokensPerMonth, answered: requestsPerMinute + 1, unlimited: 1},
		"more than were not counted":      {issued: tokensPerMonth, answered: requestsPerMinute + 2, unlimited: 1, found: 1},
		"in more than a minute, too many": {issued: tokensPerMonth, answered: requestsPerMinute + 2, late: 2 * time.Minute, found: 1},
	} {
		l := &limits{spender: &member{}, asker: &member{}, began: time.Now().Add(-c.late)}
		l.issued.Store(c.issued)
		l.answered.Store(c.answered)
		require.Len(t, l.exact(c.unlimited), c.found, name)
	}
}

func TestCallersShareWhatTheyDo(t *testing.T) {
	t.Parallel()
	var times atomic.Int64
	each(t.Context(), []*worker{{}, {}, {}}, 100, func(*worker) { times.Add(1) })
	require.Equal(t, int64(100), times.Load())
}
