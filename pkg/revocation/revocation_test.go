package revocation_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"github.com/sony/gobreaker/v2"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/devservers"
	"github.com/sentryagent/agentidp/pkg/redisx"
	"github.com/sentryagent/agentidp/pkg/revocation"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/pkg/testkit"
)

var (
	agent = uuid.MustParse("0190a7c0-0000-4000-8000-00000000000a")
	other = uuid.MustParse("0190a7c0-0000-4000-8000-00000000000b")
)

const tokenID = "0190a7c0-0000-7000-8000-000000000001"

// truth is the fallback of a test: it counts how often it is asked.
type truth struct {
	revoked bool
	err     error
	asked   []revocation.Query
}

func (f *truth) ask(_ context.Context, q revocation.Query) (bool, error) {
	f.asked = append(f.asked, q)
	return f.revoked, f.err
}

type bundle struct {
	rdb     *redisx.Client
	store   *revocation.Store
	checker *revocation.Checker
	truth   *truth
	issued  time.Time
}

func on(rdb *redisx.Client) bundle {
	f := &truth{}
	return bundle{
		rdb: rdb, store: revocation.NewStore(rdb), checker: revocation.NewChecker(rdb, f.ask), truth: f,
		issued: time.Now().Truncate(time.Millisecond),
	}
}

// hydrated is a Redis that is believed.
func hydrated(t *testing.T) bundle {
	t.Helper()
	b := on(testkit.Redis(t))
	require.NoError(t, b.store.Hydrate(t.Context(), nothing))
	return b
}

func (b bundle) revoke(t *testing.T, exp time.Time) error {
	t.Helper()
	return b.store.Load(t.Context(), []revocation.Revoked{{TokenID: tokenID, ExpiresAt: exp}}, nil)
}

func nothing(context.Context) error { return nil }

func (b bundle) query() revocation.Query {
	return revocation.Query{TokenID: tokenID, AgentID: agent, IssuedAt: b.issued}
}

func (b bundle) verdict(t *testing.T) revocation.Verdict {
	t.Helper()
	v, err := b.checker.Look(t.Context(), b.query())
	require.NoError(t, err)
	require.Len(t, v, 1)
	return v[0]
}

func TestATokenIsLiveUntilItIsRevoked(t *testing.T) {
	t.Parallel()
	b := hydrated(t)
	require.Equal(t, revocation.Live, b.verdict(t))
	require.NoError(t, b.revoke(t, time.Now().Add(time.Hour)))
	require.Equal(t, revocation.Dead, b.verdict(t))

	another := b.query()
	another.TokenID = "0190a7c0-0000-7000-8000-000000000002"
	revoked, err := b.checker.Revoked(t.Context(), another)
	require.NoError(t, err)
	require.False(t, revoked)
	require.Empty(t, b.truth.asked, "a hydrated redis is believed")
}

func TestARevocationIsKeptUntilTheTokenHasExpiredEverywhere(t *testing.T) {
	t.Parallel()
	b := hydrated(t)
	require.NoError(t, b.revoke(t, time.Now().Add(time.Hour)))
	ttl, err := b.rdb.TTL(t.Context(), b.rdb.Key("revoked", tokenID)).Result()
	require.NoError(t, err)
	require.Greater(t, ttl, 2*time.Hour-time.Minute)
	require.LessOrEqual(t, ttl, 2*time.Hour)

	for id, row := range map[string]struct {
		expired time.Duration
		want    revocation.Verdict
	}{
		"a": {59 * time.Minute, revocation.Dead}, // a verifier may take it still, by its clock
		"b": {2 * time.Hour, revocation.Live},    // nobody would, and nothing is kept of it
	} {
		require.NoError(t, b.store.Load(t.Context(), []revocation.Revoked{{TokenID: id, ExpiresAt: time.Now().Add(-row.expired)}}, nil))
		verdicts, err := b.checker.Look(t.Context(), revocation.Query{TokenID: id, AgentID: agent, IssuedAt: b.issued})
		require.NoError(t, err)
		require.Equal(t, []revocation.Verdict{row.want}, verdicts)
	}
}

func TestTheClockOfRedisDoesNotMatter(t *testing.T) {
	t.Parallel()
	for name, off := range map[string]time.Duration{"ahead": 2 * time.Hour, "behind": -2 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			redisServer := miniredis.RunT(t)
			redisServer.SetTime(time.Now().Add(off))
			b := on(open(t, "redis://"+redisServer.Addr()))
			require.NoError(t, b.store.Hydrate(t.Context(), nothing))
			require.NoError(t, b.revoke(t, time.Now().Add(time.Hour)))
			require.Equal(t, revocation.Dead, b.verdict(t))
			redisServer.FastForward(time.Hour + revocation.Margin - 30*time.Second)
			require.Equal(t, revocation.Dead, b.verdict(t), "a verifier may take it still")
			redisServer.FastForward(time.Minute)
			require.Equal(t, revocation.Live, b.verdict(t), "nothing is kept for ever")
		})
	}
}

func TestACutoff(t *testing.T) {
	t.Parallel()
	issued := time.Now().Truncate(time.Millisecond)
	for name, row := range map[string]struct {
		cutoff revocation.Cutoff
		want   revocation.Verdict
	}{
		"that blocks refuses every token":           {revocation.Cutoff{AgentID: agent, Blocked: true}, revocation.Dead},
		"of another agent refuses none":             {revocation.Cutoff{AgentID: other, Blocked: true}, revocation.Live},
		"without a time refuses none":               {revocation.Cutoff{AgentID: agent}, revocation.Live},
		"refuses what was issued before":            {revocation.Cutoff{AgentID: agent, ValidAfter: issued.Add(time.Millisecond)}, revocation.Dead},
		"refuses what was issued in the same ms":    {revocation.Cutoff{AgentID: agent, ValidAfter: issued}, revocation.Dead},
		"does not refuse what was issued one later": {revocation.Cutoff{AgentID: agent, ValidAfter: issued.Add(-time.Millisecond)}, revocation.Live},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := hydrated(t)
			b.issued = issued
			row.cutoff.Revision = 3
			require.NoError(t, b.store.SetCutoff(t.Context(), row.cutoff))
			require.Equal(t, row.want, b.verdict(t))
			require.Equal(t, row.want == revocation.Dead && row.cutoff.AgentID == agent, row.cutoff.AgentID == agent && row.cutoff.Refuses(issued))
		})
	}
}

func TestTheHighestRevisionOfACutoffHoldsInWhateverOrder(t *testing.T) {
	t.Parallel()
	suspended := revocation.Cutoff{AgentID: agent, Revision: 9, Blocked: true}
	reactivated := revocation.Cutoff{AgentID: agent, Revision: 10}
	again := revocation.Cutoff{AgentID: agent, Revision: 11, Blocked: true}
	for name, row := range map[string]struct {
		order []revocation.Cutoff
		want  revocation.Verdict
	}{
		"suspended, reactivated":            {[]revocation.Cutoff{suspended, reactivated}, revocation.Live},
		"reactivated, suspended":            {[]revocation.Cutoff{reactivated, suspended}, revocation.Live},
		"again before what was before":      {[]revocation.Cutoff{again, reactivated, suspended}, revocation.Dead},
		"the same one twice":                {[]revocation.Cutoff{suspended, suspended}, revocation.Dead},
		"suspended, reactivated, suspended": {[]revocation.Cutoff{suspended, reactivated, suspended, again}, revocation.Dead},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			one, all := hydrated(t), hydrated(t)
			for _, c := range row.order {
				require.NoError(t, one.store.SetCutoff(t.Context(), c))
			}
			require.Equal(t, row.want, one.verdict(t))
			require.NoError(t, all.store.Load(t.Context(), nil, row.order))
			require.Equal(t, row.want, all.verdict(t))
		})
	}
}

func TestACutoffOutlivesEveryTokenAndNoMore(t *testing.T) {
	t.Parallel()
	b := hydrated(t)
	require.NoError(t, b.store.SetCutoff(t.Context(), revocation.Cutoff{AgentID: agent, Blocked: true}))
	ttl, err := b.rdb.TTL(t.Context(), b.rdb.Key("cutoff", agent.String())).Result()
	require.NoError(t, err)
	require.Greater(t, ttl, 24*time.Hour)
	require.LessOrEqual(t, ttl, revocation.KeyLifetime)
}

func TestLoadTakesManyAtOnce(t *testing.T) {
	t.Parallel()
	b := hydrated(t)
	var revoked []revocation.Revoked
	var cutoffs []revocation.Cutoff
	for range 2500 {
		revoked = append(revoked, revocation.Revoked{TokenID: uuid.NewString(), ExpiresAt: time.Now().Add(time.Hour)})
		cutoffs = append(cutoffs, revocation.Cutoff{AgentID: uuid.New(), Revision: 1, Blocked: true})
	}
	require.NoError(t, b.store.Load(t.Context(), revoked, cutoffs))
	for _, i := range []int{0, 999, 1000, 2499} {
		dead, err := b.checker.Revoked(t.Context(), revocation.Query{TokenID: revoked[i].TokenID, AgentID: other})
		require.NoError(t, err)
		require.True(t, dead)
		dead, err = b.checker.Revoked(t.Context(), revocation.Query{TokenID: tokenID, AgentID: cutoffs[i].AgentID, IssuedAt: time.Now()})
		require.NoError(t, err)
		require.True(t, dead)
	}
	require.Empty(t, b.truth.asked)
	require.NoError(t, b.store.Load(t.Context(), nil, nil))
}

func TestWithoutTheMarkTheFallbackDecides(t *testing.T) {
	t.Parallel()
	b := on(testkit.Redis(t))
	is, err := b.store.Hydrated(t.Context())
	require.NoError(t, err)
	require.False(t, is)
	require.Equal(t, revocation.Unknown, b.verdict(t))
	for _, answer := range []bool{true, false} {
		b.truth.revoked = answer
		revoked, err := b.checker.Revoked(t.Context(), b.query())
		require.NoError(t, err)
		require.Equal(t, answer, revoked)
	}
	require.Equal(t, []revocation.Query{b.query(), b.query()}, b.truth.asked)

	b.truth.err = errors.New("connection refused")
	_, err = b.checker.Revoked(t.Context(), b.query())
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
}

func TestARevokedTokenIsRevokedAlsoWithoutTheMark(t *testing.T) {
	t.Parallel()
	b := on(testkit.Redis(t))
	require.NoError(t, b.revoke(t, time.Now().Add(time.Hour)))
	require.Equal(t, revocation.Dead, b.verdict(t))
	// A cutoff may have been lifted since by one that was lost.
	lifted := on(testkit.Redis(t))
	require.NoError(t, lifted.store.SetCutoff(t.Context(), revocation.Cutoff{AgentID: agent, Blocked: true}))
	require.Equal(t, revocation.Unknown, lifted.verdict(t))
}

func TestHydrateMarksOnlyWhatWasLoaded(t *testing.T) {
	t.Parallel()
	b := on(testkit.Redis(t))
	broken := errors.New("postgres is away")
	require.ErrorIs(t, b.store.Hydrate(t.Context(), func(context.Context) error { return broken }), broken)
	require.Equal(t, revocation.Unknown, b.verdict(t))

	require.NoError(t, b.store.Hydrate(t.Context(), func(ctx context.Context) error {
		require.Equal(t, revocation.Unknown, b.verdict(t), "not before everything is there")
		return b.store.Load(ctx, []revocation.Revoked{{TokenID: tokenID, ExpiresAt: time.Now().Add(time.Hour)}}, nil)
	}))
	is, err := b.store.Hydrated(t.Context())
	require.NoError(t, err)
	require.True(t, is)
	require.Equal(t, revocation.Dead, b.verdict(t))
}

func TestTwoHydrationsAtOnceDoNotDisturbEachOther(t *testing.T) {
	t.Parallel()
	b := on(testkit.Redis(t))
	require.NoError(t, b.store.Hydrate(t.Context(), func(ctx context.Context) error {
		return b.store.Hydrate(ctx, nothing)
	}))
	require.Equal(t, revocation.Live, b.verdict(t))
}

func TestAFailedWriteTakesTheMarkAway(t *testing.T) {
	t.Parallel()
	b := hydrated(t)
	// A value of the wrong kind makes the write of this cutoff fail.
	require.NoError(t, b.rdb.Set(t.Context(), b.rdb.Key("cutoff", other.String()), "x", 0).Err())
	require.Error(t, b.store.SetCutoff(t.Context(), revocation.Cutoff{AgentID: other, Blocked: true}))
	require.Equal(t, revocation.Unknown, b.verdict(t))
}

func TestAWriteThatTookTooLongTakesTheMarkAway(t *testing.T) {
	t.Parallel()
	b := hydrated(t)
	ctx, cancel := context.WithDeadline(t.Context(), time.Now())
	defer cancel()
	revoked := []revocation.Revoked{{TokenID: tokenID, ExpiresAt: time.Now().Add(time.Hour)}}
	require.ErrorIs(t, b.store.Load(ctx, revoked, nil), context.DeadlineExceeded)
	require.Equal(t, revocation.Unknown, b.verdict(t))
}

func TestACutoffThatCannotBeReadIsNotTakenForLive(t *testing.T) {
	t.Parallel()
	b := hydrated(t)
	key := b.rdb.Key("cutoff", agent.String())
	for _, fields := range []map[string]any{{"blocked": "1"}, {"validAfter": "soon"}, {"blocked": "0", "validAfter": ""}} {
		require.NoError(t, b.rdb.Del(t.Context(), key).Err())
		require.NoError(t, b.rdb.HSet(t.Context(), key, fields).Err())
		b.truth.revoked = true
		revoked, err := b.checker.Revoked(t.Context(), b.query())
		require.NoError(t, err)
		require.True(t, revoked)
	}
	require.Len(t, b.truth.asked, 3)
}

// server is a Redis of the test's own that keeps its data over a restart.
func server(t *testing.T) (*devservers.Redis, bundle) {
	t.Helper()
	testkit.RedisServer(t) // skips or fails where there is no program
	redisServer, err := devservers.StartRedis(t.Context(), devservers.RedisConfig{Dir: t.TempDir(), Persist: true})
	require.NoError(t, err)
	t.Cleanup(redisServer.Stop)
	return redisServer, on(open(t, redisServer.URL()))
}

func open(t *testing.T, url string) *redisx.Client {
	t.Helper()
	rdb, err := redisx.Open(redisx.Config{URL: config.Secret(url), KeyPrefix: "test:"}, telemetry.Discard("test"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = rdb.Close() })
	return rdb
}

func TestARestartedRedisIsNotBelievedEvenIfItKeptTheMark(t *testing.T) {
	t.Parallel()
	redisServer, b := server(t)
	require.NoError(t, b.store.Hydrate(t.Context(), nothing))
	require.Equal(t, revocation.Live, b.verdict(t))

	require.NoError(t, redisServer.Restart(t.Context()))
	require.Equal(t, revocation.Unknown, b.verdict(t))
	n, err := b.rdb.Exists(t.Context(), b.rdb.Key("revocations", "hydrated")).Result()
	require.NoError(t, err)
	require.EqualValues(t, 1, n, "the test is about a mark that survived")
	is, err := b.store.Hydrated(t.Context())
	require.NoError(t, err)
	require.False(t, is)
	fresh := on(open(t, redisServer.URL()))
	require.Equal(t, revocation.Unknown, fresh.verdict(t), "nor by a client that never saw the server before")

	require.NoError(t, b.store.Hydrate(t.Context(), nothing))
	require.Equal(t, revocation.Live, b.verdict(t))
	require.Equal(t, revocation.Live, fresh.verdict(t))
}

func TestAnEmptiedRedisIsNotBelieved(t *testing.T) {
	t.Parallel()
	_, b := server(t)
	require.NoError(t, b.store.Hydrate(t.Context(), nothing))
	require.NoError(t, b.revoke(t, time.Now().Add(time.Hour)))
	require.NoError(t, b.rdb.FlushAll(t.Context()).Err())
	require.Equal(t, revocation.Unknown, b.verdict(t))
}

func TestAHydrationThatWasInterruptedLeavesNoMark(t *testing.T) {
	t.Parallel()
	for name, interrupt := range map[string]func(context.Context, *devservers.Redis, *redisx.Client) error{
		"by emptying":  func(ctx context.Context, _ *devservers.Redis, c *redisx.Client) error { return c.FlushAll(ctx).Err() },
		"by a restart": func(ctx context.Context, s *devservers.Redis, _ *redisx.Client) error { return s.Restart(ctx) },
		"by a restart that kept everything and is known before the end": func(ctx context.Context, s *devservers.Redis, c *redisx.Client) error {
			if err := s.Restart(ctx); err != nil {
				return err
			}
			begun, err := c.Keys(ctx, c.Key("revocations", "hydration", "*")).Result()
			if err == nil && len(begun) != 1 {
				err = errors.New("redis has lost that the hydration began")
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			redisServer, b := server(t)
			err := b.store.Hydrate(t.Context(), func(ctx context.Context) error { return interrupt(ctx, redisServer, b.rdb) })
			require.ErrorIs(t, err, revocation.ErrInterrupted)
			require.Equal(t, revocation.Unknown, b.verdict(t))
		})
	}
}

func TestWithoutRedisTheFallbackDecides(t *testing.T) {
	t.Parallel()
	redisServer, b := server(t)
	require.NoError(t, b.store.Hydrate(t.Context(), nothing))
	redisServer.Stop()

	b.truth.revoked = true
	revoked, err := b.checker.Revoked(t.Context(), b.query())
	require.NoError(t, err)
	require.True(t, revoked)

	v, err := b.checker.Look(t.Context(), b.query())
	require.Error(t, err)
	require.Equal(t, []revocation.Verdict{revocation.Unknown}, v)

	require.Error(t, b.revoke(t, time.Now().Add(time.Hour)))
	require.Error(t, b.store.Hydrate(t.Context(), nothing))
	_, err = b.store.Hydrated(t.Context())
	require.Error(t, err)
	require.NotErrorIs(t, err, redis.Nil)
}

func TestARedisThatRefusesWritesIsNotBelieved(t *testing.T) {
	t.Parallel()
	_, b := server(t)
	require.NoError(t, b.store.Hydrate(t.Context(), nothing))
	needReplicas := func(n string) {
		require.NoError(t, b.rdb.ConfigSet(t.Context(), "min-replicas-to-write", n).Err())
	}
	needReplicas("1")
	require.Error(t, b.revoke(t, time.Now().Add(time.Hour)))
	is, err := b.store.Hydrated(t.Context())
	require.NoError(t, err)
	require.True(t, is, "the test is about a mark that cannot be taken away")

	_, err = b.checker.Look(t.Context(), b.query())
	require.ErrorContains(t, err, "NOREPLICAS")
	for _, answer := range []bool{true, false} {
		b.truth.revoked = answer
		revoked, err := b.checker.Revoked(t.Context(), b.query())
		require.NoError(t, err)
		require.Equal(t, answer, revoked)
	}
	require.Error(t, b.store.Hydrate(t.Context(), nothing))

	needReplicas("0")
	require.NoError(t, b.revoke(t, time.Now().Add(time.Hour)))
	require.Equal(t, revocation.Dead, b.verdict(t))
}

func TestARedisWithoutMemoryLosesTheMark(t *testing.T) {
	t.Parallel()
	_, b := server(t)
	require.NoError(t, b.store.Hydrate(t.Context(), nothing))
	require.NoError(t, b.rdb.ConfigSet(t.Context(), "maxmemory", "1").Err())
	require.Equal(t, revocation.Live, b.verdict(t), "it lacks nothing yet")
	require.Error(t, b.revoke(t, time.Now().Add(time.Hour)))
	require.Equal(t, revocation.Unknown, b.verdict(t))
	require.Error(t, b.store.Hydrate(t.Context(), nothing))
}

func TestALookChangesNothing(t *testing.T) {
	t.Parallel()
	_, b := server(t)
	require.NoError(t, b.store.Hydrate(t.Context(), nothing))
	changes := func() string {
		info, err := b.rdb.Info(t.Context(), "persistence").Result()
		require.NoError(t, err)
		_, rest, _ := strings.Cut(info, "rdb_changes_since_last_save:")
		changes, _, _ := strings.Cut(rest, "\r\n")
		require.NotEmpty(t, changes)
		return changes
	}
	before := changes()
	require.Equal(t, revocation.Live, b.verdict(t))
	require.Equal(t, before, changes())
}

func TestARevocationReachesRedisAsSoonAsItIsBack(t *testing.T) {
	t.Parallel()
	redisServer, b := server(t)
	require.NoError(t, b.store.Hydrate(t.Context(), nothing))
	thaw := testkit.Freeze(t, redisServer)
	require.Eventually(t, func() bool {
		v, err := b.checker.Look(t.Context(), b.query())
		return v[0] == revocation.Unknown && errors.Is(err, gobreaker.ErrOpenState)
	}, 10*time.Second, time.Millisecond, "requests are spared a redis that hangs")
	thaw()
	require.NoError(t, b.revoke(t, time.Now().Add(time.Hour)), "and a revocation asks it all the same")
	require.Eventually(t, func() bool {
		v, err := b.checker.Look(t.Context(), b.query())
		return err == nil && v[0] == revocation.Dead
	}, 10*time.Second, time.Millisecond)
}

func TestTheZeroVerdictIsNotLive(t *testing.T) {
	t.Parallel()
	var v revocation.Verdict
	require.Equal(t, revocation.Unknown, v)
}

func TestAnAnswerOfAnotherServerIsNotBelieved(t *testing.T) {
	t.Parallel()
	redisServer, b := server(t)
	require.NoError(t, b.store.Hydrate(t.Context(), nothing))
	asked := b.checker.Ask(b.query())
	read := func(number revocation.Verdict) revocation.Verdict {
		verdicts, err := b.checker.Read(asked, []any{int64(number)})
		require.NoError(t, err)
		return verdicts[0]
	}
	require.Equal(t, revocation.Live, read(revocation.Live))
	require.NoError(t, redisServer.Restart(t.Context()))
	require.NoError(t, b.rdb.Ping(t.Context()).Err())
	require.Equal(t, revocation.Unknown, read(revocation.Live))
	require.Equal(t, revocation.Dead, read(revocation.Dead), "nothing makes it good again")
	asked = b.checker.Ask(b.query())
	require.Equal(t, revocation.Unknown, read(7))
	for _, answer := range []any{nil, int64(revocation.Live), []any{}, []any{int64(revocation.Live), int64(revocation.Live)}} {
		verdicts, err := b.checker.Read(asked, answer)
		require.Error(t, err)
		require.Equal(t, []revocation.Verdict{revocation.Unknown}, verdicts)
	}
}

func TestSeveralTokensAreLookedUpAtOnce(t *testing.T) {
	t.Parallel()
	b := hydrated(t)
	require.NoError(t, b.revoke(t, time.Now().Add(time.Hour)))
	require.NoError(t, b.store.SetCutoff(t.Context(), revocation.Cutoff{AgentID: other, Revision: 1, ValidAfter: b.issued}))
	query := func(id string, agentID uuid.UUID, later time.Duration) revocation.Query {
		return revocation.Query{TokenID: id, AgentID: agentID, IssuedAt: b.issued.Add(later)}
	}
	verdicts, err := b.checker.Look(t.Context(),
		query("a", agent, 0), query(tokenID, agent, 0), query("b", other, 0), query("c", other, time.Millisecond))
	require.NoError(t, err)
	require.Equal(t, []revocation.Verdict{revocation.Live, revocation.Dead, revocation.Dead, revocation.Live}, verdicts)
}
