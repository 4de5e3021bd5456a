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

// TestWhatWasDoneUnseenIsHeldAgainstItsEvent has a service that does a thing, is in trouble when it answers, and says that
// it is done already when it is asked again.
func TestWhatWasDoneUnseenIsHeldAgainstItsEvent(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusConflict)
	}))
	t.Cleanup(server.Close)
	here := []replica{{name: "one", address: strings.TrimPrefix(server.URL, "http://")}}
	for name, do := range map[string]func(w *worker, m *member) bool{
		"revoke": func(w *worker, m *member) bool { return w.revokeCredential(t.Context(), m) },
		"end":    func(w *worker, m *member) bool { return w.decommission(t.Context(), m) },
	} {
		asked.Store(0)
		var book ledger
		w := &worker{
			sender:   &sender{http: server.Client(), random: newRandom(1, 1), replicas: map[string][]replica{"credentials": here, "registry": here}},
			operator: rig.Client{ID: "operator"}, ledger: &book,
		}
		require.True(t, do(w, &member{id: "a", credentials: []*secret{{id: "c"}, {id: "d"}}}), name)
		require.Empty(t, book.surprises, name)
		require.Len(t, book.actions, 1, name)
		a := book.actions[0]
		require.Equal(t, done, a.outcome, name)
		other := event{action: a.kinds[0], at: time.Now(), members: map[string]any{"agentId": "another"}}
		require.Contains(t, a.wrong([]event{other}), "in truth", name)
	}
}
