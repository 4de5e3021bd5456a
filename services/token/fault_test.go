package token_test

import (
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/registryapi"
	"github.com/sentryagent/agentidp/pkg/testkit"
)

func TestTokensGoOnWithoutNATSAndTheirEventsFollow(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	id := w.peers.register()
	w.issue(t, id, "")
	w.broker.Stop()
	for range 5 {
		w.issue(t, id, "")
	}
	require.Equal(t, http.StatusUnauthorized, w.ask(t, id, wrongSecret, "").status)
	require.NoError(t, w.broker.Restart())
	require.Eventually(t, func() bool {
		return w.nats.Connected() && len(w.eventsOf(t, auditevent.TokenIssued)) == 6
	}, 2*soon, often)
	require.Len(t, w.events(t), 7)
}

func TestTheQuotaHoldsWithoutRedisAndAfterIt(t *testing.T) {
	t.Parallel()
	w := setup(t, map[string]string{"FREE_TIER_MAX_MONTHLY_TOKENS": "10", "RATE_LIMIT_PER_MINUTE": "100"})
	id := w.peers.register()
	for range 4 {
		w.issue(t, id, "")
	}
	w.redis.Stop()
	for range 4 {
		w.issue(t, id, "")
	}
	require.NoError(t, w.redis.Restart(t.Context()))
	require.Eventually(t, func() bool { return w.redisClient(t).Ping(t.Context()).Err() == nil }, soon, often)
	w.issue(t, id, "")
	w.issue(t, id, "")
	require.Equal(t, http.StatusForbidden, w.ask(t, id, goodSecret, "").status)
	w.redis.Stop()
	require.Equal(t, http.StatusForbidden, w.ask(t, id, goodSecret, "").status)
}

func TestAnEmptiedRedisLosesNoCountOfTheQuota(t *testing.T) {
	t.Parallel()
	w := setup(t, map[string]string{"FREE_TIER_MAX_MONTHLY_TOKENS": "6"})
	id := w.peers.register()
	for range 5 {
		w.issue(t, id, "")
	}
	require.NoError(t, w.redisClient(t).FlushAll(t.Context()).Err())
	w.issue(t, id, "")
	require.Equal(t, http.StatusForbidden, w.ask(t, id, goodSecret, "").status)
}

func (w *world) redisClient(t *testing.T) *redis.Client {
	t.Helper()
	options, err := redis.ParseURL(w.redis.URL())
	require.NoError(t, err)
	client := redis.NewClient(options)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func TestARevokedTokenStaysRevokedWhateverHappensToRedis(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	id := w.peers.register()
	revoked, observer := w.issue(t, id, ""), w.issue(t, id, "tokens:read")
	require.Equal(t, http.StatusOK, w.revoke(t, observer, revoked).status)
	dead := func() bool { return w.introspect(t, observer, revoked).body == `{"active":false}` }
	live := func() bool { return w.introspect(t, observer, observer).field(t, "active") == true }

	client := w.redisClient(t)
	require.NoError(t, client.FlushAll(t.Context()).Err())
	require.True(t, dead(), "right after redis was emptied")
	require.True(t, live())
	require.Eventually(t, func() bool {
		n, err := client.Exists(t.Context(), "agentidp:revoked:"+jtiOf(t, revoked)).Result()
		return err == nil && n == 1
	}, soon, often, "redis is hydrated again")
	require.True(t, dead())

	w.redis.Stop()
	require.True(t, dead(), "while redis is away")
	require.True(t, live())
	second := w.issue(t, id, "agents:read")
	require.Equal(t, http.StatusOK, w.revoke(t, observer, second).status, "a revocation needs no redis")
	require.JSONEq(t, `{"active":false}`, w.introspect(t, observer, second).body)
	require.NoError(t, w.redis.Restart(t.Context()))
	require.True(t, dead(), "right after redis was restarted")
	require.Eventually(t, func() bool {
		n, err := client.Exists(t.Context(), "agentidp:revoked:"+jtiOf(t, second)).Result()
		return err == nil && n == 1
	}, soon, often)

	thaw := testkit.Freeze(t, w.redis)
	require.True(t, dead(), "while redis hangs")
	require.True(t, live())
	third := w.issue(t, id, "agents:read")
	require.Equal(t, http.StatusOK, w.revoke(t, observer, third).status)
	require.JSONEq(t, `{"active":false}`, w.introspect(t, observer, third).body)
	thaw()
	require.True(t, dead(), "right after redis answers again")
	require.JSONEq(t, `{"active":false}`, w.introspect(t, observer, third).body)
	require.Eventually(t, func() bool {
		n, err := client.Exists(t.Context(), "agentidp:revoked:"+jtiOf(t, third)).Result()
		return err == nil && n == 1
	}, soon, often)
}

func TestASuspensionHoldsThoughNATSIsAwayAndRedisWasEmptied(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	id, watcher := w.peers.register(), w.peers.register()
	access, observer := w.issue(t, id, ""), w.issue(t, watcher, "tokens:read")
	w.broker.Stop()
	require.Eventually(t, func() bool { return !w.nats.Connected() }, soon, often)
	w.peers.change(id, func(agent *registryapi.Agent) { agent.Status = registryapi.StatusSuspended })
	require.NoError(t, w.redisClient(t).FlushAll(t.Context()).Err())
	dead := func() bool { return w.introspect(t, observer, access).body == `{"active":false}` }
	live := func() bool { return w.introspect(t, observer, observer).field(t, "active") == true }
	require.True(t, dead(), "what is remembered of the agent is not asked")
	require.True(t, live())

	// The registry does not reach NATS, so the change stays in its outbox.
	require.NoError(t, w.broker.Restart())
	require.Eventually(t, func() bool { return !dead() || w.nats.Connected() && w.marked(t) }, 2*soon, often)
	for range 10 {
		require.True(t, dead(), "redis is believed again, though the change has not come yet")
	}
	require.True(t, live())

	w.peers.down.Store(true)
	require.NoError(t, w.redisClient(t).FlushAll(t.Context()).Err())
	require.Equal(t, http.StatusServiceUnavailable, w.introspect(t, observer, access).status, "without the registry nobody knows")
}

// marked tells whether Redis is believed.
func (w *world) marked(t *testing.T) bool {
	t.Helper()
	n, err := w.redisClient(t).Exists(t.Context(), "agentidp:revocations:hydrated").Result()
	return err == nil && n == 1
}

func TestARevocationIsSeenThoughItsReplicaDoesNotReachRedis(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	id := w.peers.register()
	access := w.issue(t, id, "tokens:read")
	require.Eventually(t, func() bool { return w.marked(t) }, soon, often)
	cut := *w
	cut.settings = maps.Clone(w.settings)
	cut.settings["REDIS_URL"] = "redis://127.0.0.1:1/0"
	cut.start(t)
	require.Equal(t, http.StatusOK, cut.revoke(t, access, access).status)
	require.Eventually(t, func() bool {
		return w.introspect(t, access, access).status == http.StatusUnauthorized
	}, soon, often, "who believes redis learns of it from another replica")
	require.True(t, w.marked(t))
}

func TestWithoutPostgresNothingIsGuessed(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	id, other := w.peers.register(), w.peers.register()
	access := w.issue(t, id, "tokens:read")
	signer, private := w.registerKey(t)
	require.Equal(t, http.StatusOK, w.askByAssertion(t, sign(t, signer, private)).status)
	w.database.Stop(t)

	w.issue(t, id, "")
	signed := w.askByAssertion(t, sign(t, signer, private))
	require.Equal(t, http.StatusServiceUnavailable, signed.status, "it may have been used")
	require.Equal(t, "temporarily_unavailable", signed.field(t, "error"))
	got := w.revoke(t, access, access)
	require.Equal(t, http.StatusServiceUnavailable, got.status, got.body)
	require.Equal(t, "SERVICE_UNAVAILABLE", got.field(t, "code"))
	require.NotEmpty(t, got.header.Get("Retry-After"))
	require.Equal(t, http.StatusServiceUnavailable, w.ask(t, other, goodSecret, "").status, "its quota is not known")
	require.NoError(t, w.redisClient(t).FlushAll(t.Context()).Err())
	require.Equal(t, http.StatusServiceUnavailable, w.introspect(t, access, access).status)
}

func TestAReplicaStaysReadyWithoutPostgresAndDoesNotBecomeSo(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	id := w.peers.register()
	w.issue(t, id, "")
	w.database.Stop(t)
	w.issue(t, id, "")
	require.Equal(t, http.StatusOK, w.get(t, w.Public+"/.well-known/jwks.json").status)
	require.Equal(t, http.StatusOK, w.get(t, w.Internal+"/readyz").status, "all replicas would leave at once")

	late := *w
	late.run(t)
	require.Eventually(t, func() bool { return late.get(t, late.Internal+"/healthz").status == http.StatusOK }, soon, often)
	require.Equal(t, http.StatusServiceUnavailable, late.get(t, late.Internal+"/readyz").status, "it has no keys yet")
}

// jtiOf reads the id of a token.
func jtiOf(t *testing.T, access string) string {
	t.Helper()
	return claimsOf(t, access)["jti"].(string)
}

func TestTwoReplicasShareKeysQuotaAndRevocations(t *testing.T) {
	t.Parallel()
	w := setup(t, map[string]string{"FREE_TIER_MAX_MONTHLY_TOKENS": "6"})
	id := w.peers.register()
	first, second := *w, *w
	second.start(t)
	access := first.issue(t, id, "tokens:read")
	require.Equal(t, true, second.introspect(t, access, access).field(t, "active"))
	for range 5 {
		second.issue(t, id, "")
	}
	require.Equal(t, http.StatusForbidden, first.ask(t, id, goodSecret, "").status)
	require.Equal(t, http.StatusOK, first.revoke(t, access, access).status)
	require.Equal(t, http.StatusUnauthorized, second.introspect(t, access, access).status)
}

// check asks the internal API whether a token is revoked.
func (w *world) check(t *testing.T, bearer string, id uuid.UUID, jti string) reply {
	t.Helper()
	body := `{"jti":"` + jti + `","sub":"` + id.String() + `","issuedAt":"` + time.Now().UTC().Format(time.RFC3339Nano) + `"}`
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.Internal+"/internal/v1/revocations/check", strings.NewReader(body))
	require.NoError(t, err)
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Authorization", "Bearer "+bearer)
	return w.send(t, request)
}

func TestTheInternalAPIAnswersFromTheDatabase(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	id := w.peers.register()
	access := w.issue(t, id, "")
	check := func(bearer string) reply { return w.check(t, bearer, id, jtiOf(t, access)) }
	require.JSONEq(t, `{"revoked":false}`, check(internalToken).body)
	require.Equal(t, http.StatusUnauthorized, check("wrong").status)
	require.Equal(t, http.StatusOK, w.revoke(t, access, access).status)
	require.NoError(t, w.redisClient(t).FlushAll(t.Context()).Err())
	require.JSONEq(t, `{"revoked":true}`, check(internalToken).body)

	public, internal := w.get(t, w.Public+"/.well-known/jwks.json"), w.get(t, w.Internal+"/internal/v1/jwks")
	require.Equal(t, public.body, internal.body)
	require.Equal(t, http.StatusNotFound, w.get(t, w.Public+"/internal/v1/jwks").status)
	require.Contains(t, w.get(t, w.Internal+"/openapi.yaml").body, "openapi: 3.0.3")
}
