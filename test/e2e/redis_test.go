package e2e

import (
	"context"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/devservers"
)

// cache is a Redis of the test's own, which keeps its data over a restart.
type cache struct {
	*devservers.Redis

	dir, snapshot string
}

func startCache(t *testing.T) *cache {
	t.Helper()
	c := &cache{dir: filepath.Join(t.TempDir(), "redis"), snapshot: filepath.Join(t.TempDir(), "snapshot")}
	server, err := devservers.StartRedis(t.Context(), devservers.RedisConfig{Dir: c.dir, Persist: true})
	if err != nil && os.Getenv("CI") == "" {
		t.Skipf("no redis-server: %v", err)
	}
	require.NoError(t, err)
	t.Cleanup(server.Stop)
	c.Redis = server
	return c
}

func (c *cache) keep(t *testing.T) {
	t.Helper()
	c.Stop()
	require.NoError(t, os.CopyFS(c.snapshot, os.DirFS(c.dir)))
	require.NoError(t, c.Restart(t.Context()))
}

// restore starts the server with what it had when it was kept.
func (c *cache) restore(t *testing.T) {
	t.Helper()
	c.Stop()
	require.NoError(t, os.RemoveAll(c.dir))
	require.NoError(t, os.CopyFS(c.dir, os.DirFS(c.snapshot)))
	require.NoError(t, c.Restart(t.Context()))
}

func (c *cache) empty(t *testing.T) {
	t.Helper()
	options, err := redis.ParseURL(c.URL())
	require.NoError(t, err)
	client := redis.NewClient(options)
	defer func() { _ = client.Close() }()
	require.NoError(t, client.FlushAll(t.Context()).Err())
}

// watch shows tokens to all four services, again and again.
type watch struct {
	in   *installation
	live string

	mu     sync.Mutex
	dead   []string
	rounds int
}

func (w *watch) add(token string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dead = append(w.dead, token)
}

// statuses of one token at each service.
func (w *watch) statuses(t *testing.T, token string) []int {
	t.Helper()
	statuses := make([]int, 0, 4)
	for _, path := range []string{"/api/v1/agents/" + w.in.clientID, "/api/v1/agents/" + w.in.clientID + "/credentials", "/api/v1/audit?limit=1"} {
		statuses = append(statuses, w.in.call(t, http.MethodGet, path, token, nil).status)
	}
	return append(statuses, w.in.form(t, "/api/v1/token/introspect", url.Values{"token": {token}}, bearer(token)).status)
}

func (w *watch) run(ctx context.Context, t *testing.T) {
	t.Helper()
	for ctx.Err() == nil {
		w.mu.Lock()
		dead := append([]string(nil), w.dead...)
		w.mu.Unlock()
		for _, token := range dead {
			if got := w.statuses(t, token); got[0] != 401 || got[1] != 401 || got[2] != 401 || got[3] != 401 {
				t.Errorf("a revoked token was answered %v", got)
				return
			}
		}
		if got := w.statuses(t, w.live); got[0] != 200 || got[1] != 200 || got[2] != 200 || got[3] != 200 {
			t.Errorf("a live token was answered %v", got)
			return
		}
		w.mu.Lock()
		w.rounds++
		w.mu.Unlock()
	}
}

// look waits until the tokens have been shown twice more.
func (w *watch) look(t *testing.T) {
	t.Helper()
	rounds := func() int {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.rounds
	}
	until := rounds() + 3 // the one under way began before
	require.Eventually(t, func() bool { return t.Failed() || rounds() >= until }, time.Minute, 10*time.Millisecond)
}

func TestNoRevokedTokenIsEverAcceptedWhateverHappensToRedis(t *testing.T) {
	t.Parallel()
	store := startCache(t)
	in := install(t, "REDIS_URL="+store.URL(), "RATE_LIMIT_PER_MINUTE=0")
	operator := in.operator(t)
	secrets := map[string]string{}
	newAgent := func(email string) (id, token string) {
		id = in.register(t, operator, email, nil)
		_, secrets[id] = in.credential(t, operator, id)
		return id, in.token(t, id, secrets[id], "agents:read agents:write tokens:read audit:read")
	}
	seen := &watch{in: in, live: operator}
	revoke := func(agent, token string) {
		got := in.form(t, "/api/v1/token/revoke", url.Values{"token": {token}}, basic(agent, secrets[agent]))
		require.Equal(t, http.StatusOK, got.status, "%s", got.body)
		in.requireDead(t, operator, agent, token)
		seen.add(token)
	}
	suspend := func(agent, token string) {
		in.patch(t, operator, agent, `{"status":"suspended"}`)
		in.requireDead(t, operator, agent, token)
		seen.add(token)
	}
	decommission := func(agent, token string) {
		require.Equal(t, http.StatusNoContent, in.call(t, http.MethodDelete, "/api/v1/agents/"+agent, operator, nil).status)
		in.requireDead(t, operator, agent, token)
		seen.add(token)
	}
	one, ones := newAgent("one@example.com")
	two, twos := newAgent("two@example.com")
	three, threes := newAgent("three@example.com")
	four, fours := newAgent("four@example.com")
	five, fives := newAgent("five@example.com")
	six, sixes := newAgent("six@example.com")
	store.keep(t) // all of them are alive in this snapshot

	revoke(one, ones)
	suspend(two, twos)
	decommission(three, threes)
	ctx, cancel := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	watching.Go(func() { seen.run(ctx, t) })
	defer watching.Wait()
	defer cancel()
	seen.look(t)
	for name, happens := range map[string]func(){
		"emptied":                      func() { store.empty(t) },
		"restarted":                    func() { require.NoError(t, store.Restart(t.Context())) },
		"restarted from an older life": func() { store.restore(t) },
	} {
		happens()
		seen.look(t)
		require.False(t, t.Failed(), name)
	}
	store.Stop()
	seen.look(t)
	require.False(t, t.Failed(), "redis is away")
	in.token(t, four, secrets[four], "agents:read")
	revoke(four, fours)
	suspend(five, fives)
	decommission(six, sixes)
	seen.look(t)
	store.restore(t)
	seen.look(t)
}

func TestTheMonthlyQuotaIsExactWhateverHappensToRedis(t *testing.T) {
	t.Parallel()
	store := startCache(t)
	in := install(t, "REDIS_URL="+store.URL(), "RATE_LIMIT_PER_MINUTE=0", "FREE_TIER_MAX_MONTHLY_TOKENS=11")
	operator := in.operator(t)
	agent := in.register(t, operator, "counted@example.com", nil)
	_, secret := in.credential(t, operator, agent)
	issue := func(n int) {
		for range n {
			in.token(t, agent, secret, "")
		}
	}
	issue(2)
	store.keep(t)
	issue(3)
	store.restore(t)
	issue(2)
	store.empty(t)
	issue(1)
	store.Stop()
	issue(2)
	require.NoError(t, store.Restart(t.Context()))
	issue(1)
	refused := in.form(t, "/api/v1/token", url.Values{"grant_type": {"client_credentials"}, "client_id": {agent}, "client_secret": {secret}})
	require.Equal(t, http.StatusForbidden, refused.status, "%s", refused.body)
	store.Stop()
	refused = in.form(t, "/api/v1/token", url.Values{"grant_type": {"client_credentials"}, "client_id": {agent}, "client_secret": {secret}})
	require.Equal(t, http.StatusForbidden, refused.status, "%s", refused.body)
}
