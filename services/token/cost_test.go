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
	answer := w.get(t, w.internal+"/metrics")
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
// makes the endpoint as fast as its signature.
func TestAWarmTokenCostsOneRoundTripToRedisOnePublishAndNoStatement(t *testing.T) {
	t.Parallel()
	const tokens = 200
	w := setup(t, map[string]string{"RATE_LIMIT_PER_MINUTE": "100000", "FREE_TIER_MAX_MONTHLY_TOKENS": "100000"})
	id := w.peers.register()
	w.issue(t, id, "")
	statements := w.counts(t, "agentidp_db_query_duration_seconds")
	commands := w.counts(t, "agentidp_redis_command_duration_seconds")
	published, lookups, verified := w.audited(t), w.peers.lookups.Load(), w.peers.verified.Load()
	for range tokens {
		w.issue(t, id, "")
	}
	moreStatements := since(statements, w.counts(t, "agentidp_db_query_duration_seconds"))
	moreCommands := since(commands, w.counts(t, "agentidp_redis_command_duration_seconds"))
	require.Equal(t, uint64(tokens), w.audited(t)-published)
	require.Equal(t, tokens, moreCommands["evalsha"])
	for _, worker := range []string{"quota_raise", "signing_keys_list", "outbox_claim", "outbox_count", "revocations_purge"} {
		delete(moreStatements, worker) // they run by the clock, whoever asks for tokens
	}
	require.Empty(t, moreStatements, "no statement but those of workers")
	delete(moreCommands, "evalsha")
	delete(moreCommands, "get") // the hydration mark is looked at by the clock
	require.Empty(t, moreCommands)
	require.Equal(t, []int64{lookups, verified}, []int64{w.peers.lookups.Load(), w.peers.verified.Load()}, "no peer is asked")
}
