package e2e

import (
	"context"
	"net/http"
	"net/url"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

const tries = 2000

// try is one failed authentication, as it looks from outside.
type try struct {
	unknown bool
	took    time.Duration
	status  int
	body    string
	header  http.Header
}

// It runs alone, before the parallel tests of the package: how much noise others make is not what it measures.
//

func TestAnUnknownClientAndAWrongSecretDifferNeitherInTheAnswerNorInTime(t *testing.T) {
	in := install(t, "AUTH_FAILURES_PER_MINUTE=0", "RATE_LIMIT_PER_MINUTE=100000")
	operator := in.operator(t)
	agent := in.register(t, operator, "probed@example.com", nil)
	_, secret := in.credential(t, operator, agent)
	in.token(t, agent, secret, "agents:read") // it is in use, and so remembered
	wrong := secret[:len(secret)-8] + strings.Repeat("0", 8)

	// One after the other, in turns: whatever else the machine does happens to both.
	found := make([]try, 0, 2*tries)
	for i := range 2 * tries {
		client := agent
		if i%2 == 1 {
			client = uuid.Must(uuid.NewV7()).String()
		}
		fields := url.Values{"grant_type": {"client_credentials"}, "client_id": {client}, "client_secret": {wrong}}
		req := in.formRequest(t, "/api/v1/token", fields)
		began := time.Now()
		got, err := in.try(req)
		took := time.Since(began)
		require.NoError(t, err)
		for _, own := range []string{"Date", "X-Request-Id", "X-Ratelimit-Reset"} {
			got.header.Del(own)
		}
		found = append(found, try{i%2 == 1, took, got.status, string(got.body), got.header})
	}
	for _, f := range found {
		require.Equal(t, http.StatusUnauthorized, f.status, f.body)
		require.Equal(t, found[0].body, f.body)
		require.Equal(t, found[0].header, f.header)
	}
	// With equal distributions this is 0.5, with a standard deviation of 0.009; a bcrypt more on one side makes it 0 or 1.
	t.Logf("AUC %.3f, medians %v", slower(found), found[len(found)/2].took)
	require.InDelta(t, 0.5, slower(found), 0.06, "the time tells whether there is such a client")
}

// slower is the probability that an unknown client took longer than a wrong secret (the statistic of Mann and Whitney).
func slower(found []try) float64 {
	sort.Slice(found, func(i, j int) bool { return found[i].took < found[j].took })
	wrong, pairs := 0, 0
	for _, f := range found {
		if f.unknown {
			pairs += wrong
		} else {
			wrong++
		}
	}
	return float64(pairs) / float64(wrong*(len(found)-wrong))
}

func TestAFloodOfWrongSecretsHoldsUpNoRightOne(t *testing.T) {
	t.Parallel()
	in := install(t, "AUTH_FAILURES_PER_MINUTE=3", "TRUSTED_PROXIES=127.0.0.1", "RATE_LIMIT_PER_MINUTE=0")
	const flooding, elsewhere = "203.0.113.9", "203.0.113.10"
	operator := in.operator(t)
	agent := in.register(t, operator, "flooded@example.com", nil)
	_, warm := in.credential(t, operator, agent)
	_, cold := in.credential(t, operator, agent)
	_, far := in.credential(t, operator, agent)
	request := func(client, secret, address string) *http.Request {
		fields := url.Values{"grant_type": {"client_credentials"}, "client_id": {client}, "client_secret": {secret}}
		return in.formRequest(t, "/api/v1/token", fields, from(address))
	}
	ask := func(client, secret, address string) int { return in.do(t, request(client, secret, address)).status }
	require.Equal(t, http.StatusOK, ask(agent, warm, flooding))

	began := time.Now()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var flood sync.WaitGroup
	var mu sync.Mutex
	statuses := map[int]int{}
	count := func(status int) int {
		mu.Lock()
		defer mu.Unlock()
		return statuses[status]
	}
	for worker := range 16 {
		flood.Go(func() {
			for ctx.Err() == nil {
				client := agent
				if worker%2 == 1 {
					client = uuid.Must(uuid.NewV7()).String()
				}
				req := request(client, "sk_live_"+strings.Repeat("0", 64), flooding)
				got, err := in.try(req)
				require.NoError(t, err)
				if got.status != http.StatusServiceUnavailable { // counted below; the other checks hold for all
					in.check(t, req, got)
				}
				mu.Lock()
				statuses[got.status]++
				mu.Unlock()
			}
		})
	}
	require.Eventually(t, func() bool { return count(http.StatusTooManyRequests) > 30 }, time.Minute, 10*time.Millisecond)
	for range 50 {
		require.Equal(t, http.StatusOK, ask(agent, warm, flooding), "a secret in use, from the same address")
	}
	require.Equal(t, http.StatusOK, ask(agent, cold, flooding), "a secret that nobody has used yet, from the same address")
	require.Equal(t, http.StatusOK, ask(agent, far, elsewhere), "and from another one")
	require.Equal(t, http.StatusUnauthorized, ask(agent, "sk_live_wrong", elsewhere), "whose failures are its own")
	cancel()
	flood.Wait()

	// Ten times the limit of one client in each sliding minute that the flood went on for, on a slow machine more than one.
	minutes := 1 + int(time.Since(began)/time.Minute)
	refused, unavailable := statuses[http.StatusUnauthorized], statuses[http.StatusServiceUnavailable]
	total := refused + unavailable + statuses[http.StatusTooManyRequests]
	require.Positive(t, refused, "%v", statuses)
	require.LessOrEqual(t, refused, 30*minutes, "%v", statuses)
	require.LessOrEqual(t, unavailable, total/20, "what a busy machine may cost: %v", statuses)
	delete(statuses, http.StatusUnauthorized)
	delete(statuses, http.StatusTooManyRequests)
	delete(statuses, http.StatusServiceUnavailable)
	require.Empty(t, statuses, "no other answer")
	eventually(t, func() bool {
		events := len(in.trail(t, operator, "action=auth.failed")) - 1
		// What is answered 503 may have been recorded all the same.
		return events >= refused && events <= refused+unavailable
	}, "one event for each 401, none for a 429")
}
