package e2e

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// inParallel calls f n times at once and answers what came back.
func inParallel[T any](n int, f func(i int) T) []T {
	results := make([]T, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { results[i] = f(i) })
	}
	wg.Wait()
	return results
}

func TestTwoHundredRegistrationsAtOnceLeaveExactlyTheLimit(t *testing.T) {
	t.Parallel()
	in := install(t, "FREE_TIER_MAX_AGENTS=100", "RATE_LIMIT_PER_MINUTE=0")
	operator := in.operator(t)
	answers := inParallel(200, func(i int) answer {
		got, err := in.try(in.request(t, http.MethodPost, "/api/v1/agents", operator, agentBody(fmt.Sprintf("a%d@example.com", i), nil)))
		if err != nil {
			return answer{body: []byte(err.Error())}
		}
		return got
	})
	created := 0
	for _, got := range answers {
		if got.status == http.StatusCreated {
			created++
			continue
		}
		require.Equal(t, http.StatusForbidden, got.status, "%s", got.body)
		require.Equal(t, "FREE_TIER_LIMIT_EXCEEDED", got.code())
		require.EqualValues(t, 100, got.object(t)["details"].(map[string]any)["limit"])
	}
	living := in.call(t, http.MethodGet, "/api/v1/agents?status=active&limit=1", operator, nil).object(t)["total"]
	require.EqualValues(t, 100, living, "the limit counts every agent that is not decommissioned, the operator too")
	require.Equal(t, 99, created)

	eventually(t, func() bool {
		got := in.call(t, http.MethodGet, "/api/v1/audit?action=agent.created&limit=1", operator, nil)
		return got.object(t)["total"].(float64) == 100
	}, "one event per agent, none for the refused ones")
}

func TestTheMonthlyQuotaIsExactUnderConcurrency(t *testing.T) {
	t.Parallel()
	in := install(t, "FREE_TIER_MAX_MONTHLY_TOKENS=20", "RATE_LIMIT_PER_MINUTE=0")
	operator := in.operator(t)
	agent := in.register(t, operator, "thirsty@example.com", nil)
	_, secret := in.credential(t, operator, agent)
	answers := inParallel(64, func(int) answer {
		return in.form(t, "/api/v1/token", url.Values{"grant_type": {"client_credentials"}, "client_id": {agent}, "client_secret": {secret}})
	})
	issued := 0
	for _, got := range answers {
		if got.status == http.StatusOK {
			issued++
			continue
		}
		require.Equal(t, http.StatusForbidden, got.status, "%s", got.body)
		require.Equal(t, "unauthorized_client", got.oauthError())
		require.Contains(t, got.object(t)["error_description"], "20")
	}
	require.Equal(t, 20, issued)
	eventually(t, func() bool {
		got := in.call(t, http.MethodGet, "/api/v1/audit?action=token.issued&limit=1&agentId="+agent, operator, nil)
		return got.object(t)["total"].(float64) == 20
	}, "one event per token that left")
}

func TestTheRateLimitIsCountedPerClientAndTellsWhenToComeBack(t *testing.T) {
	t.Parallel()
	in := install(t, "RATE_LIMIT_PER_MINUTE=10")
	operator := in.operator(t)
	agent := in.register(t, operator, "busy@example.com", nil)
	_, secret := in.credential(t, operator, agent)
	token := in.token(t, agent, secret, "agents:read")
	statuses := map[int]int{}
	for range 15 {
		got := in.call(t, http.MethodGet, "/api/v1/agents/"+agent, token, nil)
		statuses[got.status]++
		require.Equal(t, "10", got.header.Get("X-RateLimit-Limit"))
		require.NotEmpty(t, got.header.Get("X-RateLimit-Reset"))
		if got.status == http.StatusTooManyRequests {
			require.Equal(t, "RATE_LIMIT_EXCEEDED", got.code())
			require.Equal(t, "0", got.header.Get("X-RateLimit-Remaining"))
			wait, err := strconv.Atoi(got.header.Get("Retry-After"))
			require.NoError(t, err)
			require.InDelta(t, 30, wait, 30)
		}
	}
	require.Equal(t, map[int]int{http.StatusOK: 9, http.StatusTooManyRequests: 6}, statuses, "the token itself was the first of ten")
	require.Equal(t, http.StatusTooManyRequests, in.form(t, "/api/v1/token", url.Values{"grant_type": {"client_credentials"},
		"client_id": {agent}, "client_secret": {secret}}).status, "the window is the client's, at every service")
	require.Equal(t, http.StatusOK, in.call(t, http.MethodGet, "/api/v1/agents/"+agent, operator, nil).status, "others are not held up")
}

func TestWrongSecretsAreLimitedWithoutStoppingTheRightOne(t *testing.T) {
	t.Parallel()
	in := install(t, "AUTH_FAILURES_PER_MINUTE=5", "TRUSTED_PROXIES=127.0.0.1")
	operator := in.operator(t)
	agent := in.register(t, operator, "guessed@example.com", nil)
	_, secret := in.credential(t, operator, agent)
	fields := url.Values{"grant_type": {"client_credentials"}, "client_id": {agent}, "client_secret": {"sk_live_wrong"}}
	statuses := map[int]int{}
	for range 8 {
		got := in.form(t, "/api/v1/token", fields, from("203.0.113.9"))
		statuses[got.status]++
		if got.status == http.StatusTooManyRequests {
			require.NotEmpty(t, got.header.Get("Retry-After"))
			require.Equal(t, "RATE_LIMIT_EXCEEDED", got.code())
		}
	}
	require.Equal(t, map[int]int{http.StatusUnauthorized: 5, http.StatusTooManyRequests: 3}, statuses)
	require.Equal(t, http.StatusUnauthorized, in.form(t, "/api/v1/token", fields, from("203.0.113.10")).status,
		"the limit is per client and address")
	fields.Set("client_secret", secret)
	for _, address := range []string{"203.0.113.9", "203.0.113.10"} {
		require.Equal(t, http.StatusOK, in.form(t, "/api/v1/token", fields, from(address)).status)
	}
	eventually(t, func() bool {
		return len(in.trail(t, operator, "action=auth.failed&agentId="+agent)) == 6
	}, "one event for each failure that was answered as one")
	for _, event := range in.trail(t, operator, "action=auth.failed&agentId="+agent) {
		require.Contains(t, []any{"203.0.113.9", "203.0.113.10"}, event["ipAddress"])
		require.Equal(t, "invalid_secret", event["metadata"].(map[string]any)["reason"])
	}
}
