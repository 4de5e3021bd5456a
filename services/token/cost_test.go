package token_test

import (
	"net/http"
	"regexp"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/natsx"
)

// counts reads, of a histogram of the service, how many observations each series has.
func (w *world) counts(t *testing.T, metric string) map[string]int {
	t.Helper()
	answer := w.get(t, w.Internal+"/metrics")
	require.Equal(t, http.StatusOK, answer.status)
	counts := map[string]int{}
	series := regexp.MustCompile(`(?m)^` + metric + `_count\{[a-z]+="([^"]*)"\} (\d+)$`)
	for _, match := range series.FindAllStringSubmatch(answer.body, -1) {
		n, err := strconv.Atoi(match[2])
		require.NoError(t, err)
		counts[match[1]] = n
	}
	return counts
}

// since leaves what was counted after the earlier counts.
func since(earlier, now map[string]int) map[string]int {
	more := map[string]int{}
	for name, n := range now {
		if n > earlier[name] {
			more[name] = n - earlier[name]
		}
	}
	return more
}

func (w *world) audited(t *testing.T) uint64 {
	t.Helper()
	stream, err := w.nats.JS().Stream(t.Context(), natsx.AuditStream)
	require.NoError(t, err)
	return stream.CachedInfo().State.LastSeq
}

// What a token costs once its client is known, with the rate limit and the quota on: these counts are the promise that
// makes the endpoint as fast as its signature. It runs beside no other test: while the machine is too busy to answer in
// time, a token may take the way that is there for a Redis or a NATS that is away.
func TestAWarmTokenCostsOneRoundTripToRedisOnePublishAndNoStatement(t *testing.T) {
	const tokens = 200
	w := setup(t, map[string]string{"RATE_LIMIT_PER_MINUTE": "100000", "FREE_TIER_MAX_MONTHLY_TOKENS": "100000"})
	id := w.peers.register()
	for attempt := 1; ; attempt++ {
		w.issue(t, id, "")
		statements := w.counts(t, "agentidp_db_query_duration_seconds")
		commands := w.counts(t, "agentidp_redis_command_duration_seconds")
		published, lookups, verified := w.audited(t), w.peers.lookups.Load(), w.peers.verified.Load()
		for range tokens {
			w.issue(t, id, "")
		}
		moreStatements := since(statements, w.counts(t, "agentidp_db_query_duration_seconds"))
		moreCommands := since(commands, w.counts(t, "agentidp_redis_command_duration_seconds"))
		if attempt == 1 && (moreStatements["outbox_append"] > 0 || moreCommands["hello"] > 0) {
			continue // one publish was not acknowledged in time, or the pool opened a further connection to Redis
		}
		for _, statement := range []string{ // all that a token could cause; the others are those of workers, which run by the clock
			"assertion_use", "quota_open", "quota_used", "quota_take", "quota_give_back",
			"revocation_check", "revocation_insert", "agent_cutoff_upsert", "outbox_append",
		} {
			require.NotContains(t, moreStatements, statement)
		}
		require.Equal(t, uint64(tokens), w.audited(t)-published)
		require.Equal(t, tokens, moreCommands["evalsha"])
		delete(moreCommands, "evalsha")
		delete(moreCommands, "get")  // the hydration mark is looked at by the clock
		delete(moreCommands, "ping") // and so is whether Redis answers
		require.Empty(t, moreCommands)
		// A client is remembered for 30 s, which a slow machine may need for all these tokens.
		require.LessOrEqual(t, w.peers.lookups.Load()-lookups, int64(1), "no peer is asked")
		require.LessOrEqual(t, w.peers.verified.Load()-verified, int64(1), "no peer is asked")
		return
	}
}
