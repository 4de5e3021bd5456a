package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// book is what clients were told had happened.
type book struct {
	mu     sync.Mutex
	agents map[string]bool // agentId → acknowledged
	tokens map[string]bool // jti → acknowledged

}

func (b *book) note(where map[string]bool, id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	where[id] = true
}

// size is how many acknowledged registrations and tokens the book holds.
func (b *book) size() (agents, tokens int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.agents), len(b.tokens)
}

func TestNothingAcknowledgedIsLostWhenTheProgramIsKilledUnderLoad(t *testing.T) {
	t.Parallel()
	settings := []string{"RATE_LIMIT_PER_MINUTE=0", "FREE_TIER_MAX_AGENTS=0", "FREE_TIER_MAX_MONTHLY_TOKENS=0"}
	in := install(t, settings...)
	operator := in.operator(t)
	client := in.register(t, operator, "load@example.com", nil)
	_, secret := in.credential(t, operator, client)
	written := &book{agents: map[string]bool{}, tokens: map[string]bool{}}

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var load sync.WaitGroup
	for worker := range 4 {
		load.Go(func() { in.registerUntil(ctx, t, written, operator, worker) })
		load.Go(func() { in.issueUntil(ctx, t, written, client, secret) })
	}
	require.Eventually(t, func() bool {
		agents, tokens := written.size()
		return agents >= 50 && tokens >= 50
	}, time.Minute, 10*time.Millisecond, "the load must get going")
	in.kill(t)
	cancel()
	load.Wait()

	again := start(t, in.dir, in.port, settings...)
	operator = again.operator(t)
	for agent := range written.agents {
		require.Equal(t, http.StatusOK, again.call(t, http.MethodGet, "/api/v1/agents/"+agent, operator, nil).status, "agent %s is lost", agent)
	}
	require.Eventually(t, func() bool {
		return len(again.missing(t, operator, written)) == 0
	}, 30*time.Second, 200*time.Millisecond, "an acknowledged action has no event")
	require.Empty(t, again.missing(t, operator, written))
}

func (in *installation) registerUntil(ctx context.Context, t *testing.T, written *book, token string, worker int) {
	t.Helper()
	for i := 0; ctx.Err() == nil; i++ {
		got, err := in.try(in.request(t, http.MethodPost, "/api/v1/agents", token, agentBody(fmt.Sprintf("w%d-%d@example.com", worker, i), nil)))
		if err != nil || got.status != http.StatusCreated {
			continue
		}
		var agent struct{ AgentID string }
		if json.Unmarshal(got.body, &agent) == nil {
			written.note(written.agents, agent.AgentID)
		}
	}
}

func (in *installation) issueUntil(ctx context.Context, t *testing.T, written *book, id, secret string) {
	t.Helper()
	fields := url.Values{"grant_type": {"client_credentials"}, "client_id": {id}, "client_secret": {secret}}.Encode()
	for ctx.Err() == nil {
		req, err := http.NewRequest(http.MethodPost, in.url+"/api/v1/token", strings.NewReader(fields))
		if err != nil {
			t.Error(err)
			return
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		got, err := in.try(req)
		if err != nil || got.status != http.StatusOK {
			continue
		}
		var body struct {
			AccessToken string `json:"access_token"`
		}
		if json.Unmarshal(got.body, &body) == nil {
			written.note(written.tokens, claimOf(body.AccessToken, "jti"))
		}
	}
}

// missing holds the book against the trail: it answers every acknowledged action without an event, and fails at an event
// that stands there twice.
func (in *installation) missing(t *testing.T, operator string, written *book) []string {
	t.Helper()
	created, issued := map[string]int{}, map[string]int{}
	for _, event := range in.trail(t, operator, "action=agent.created") {
		created[event["agentId"].(string)]++
	}
	for _, event := range in.trail(t, operator, "action=token.issued") {
		issued[event["metadata"].(map[string]any)["jti"].(string)]++
	}
	var lost []string
	for kind, acknowledged := range map[string]map[string]bool{"agent": written.agents, "token": written.tokens} {
		counts := created
		if kind == "token" {
			counts = issued
		}
		for id := range acknowledged {
			require.LessOrEqual(t, counts[id], 1, "%s %s has more than one event", kind, id)
			if counts[id] == 0 {
				lost = append(lost, kind+" "+id)
			}
		}
	}
	return lost
}
