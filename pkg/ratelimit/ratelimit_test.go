package ratelimit_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/ratelimit"
	"github.com/sentryagent/agentidp/pkg/redisx"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/pkg/testkit"
)

type bundle struct {
	rdb     *redisx.Client
	tel     *telemetry.Telemetry
	limiter *ratelimit.Limiter
}

func setup(t *testing.T) bundle {
	t.Helper()
	b := bundle{rdb: testkit.Redis(t), tel: telemetry.Discard("test")}
	b.limiter = ratelimit.New(b.rdb, b.tel)
	return b
}

func (b bundle) take(t *testing.T, limit int) ratelimit.Window {
	t.Helper()
	w, err := b.limiter.Take(t.Context(), "k", limit)
	require.NoError(t, err)
	return w
}

// past writes admissions of that long ago, oldest first, by the server's clock, which it returns.
func (b bundle) past(t *testing.T, ages ...time.Duration) time.Time {
	t.Helper()
	now, err := b.rdb.Time(t.Context()).Result()
	require.NoError(t, err)
	for _, age := range ages {
		require.NoError(t, b.rdb.RPush(t.Context(), b.limiter.RedisKey("k"), now.Add(-age).UnixMicro()).Err())
	}
	return now
}

func TestLookSaysWhatTakeWould(t *testing.T) {
	t.Parallel()
	b := setup(t)
	look := func(limit int) ratelimit.Window {
		w, err := b.limiter.Look(t.Context(), "k", limit)
		require.NoError(t, err)
		return w
	}
	for range 3 {
		require.True(t, look(2).Allowed, "nothing is charged")
	}
	b.past(t, 61*time.Second, 30*time.Second)
	require.True(t, look(2).Allowed, "one has expired")
	require.True(t, b.take(t, 2).Allowed)
	w := look(2)
	require.False(t, w.Allowed)
	require.InDelta(t, 30, w.RetryAfter.Seconds(), 5)
	require.False(t, b.take(t, 2).Allowed)
	require.True(t, look(0).Allowed, "there is no limit")
}

func TestTakeAdmitsUpToTheLimit(t *testing.T) {
	t.Parallel()
	b := setup(t)
	started, err := b.rdb.Time(t.Context()).Result()
	require.NoError(t, err)
	for i := range 5 {
		w := b.take(t, 5)
		require.True(t, w.Allowed)
		require.NoError(t, w.Err())
		require.Equal(t, 5, w.Limit)
		require.Equal(t, 4-i, w.Remaining)
		require.Zero(t, w.RetryAfter)
		require.WithinDuration(t, started.Add(time.Minute), w.Reset, 5*time.Second)
		require.False(t, w.Reset.Before(started.Add(time.Minute)))
	}
	w := b.take(t, 5)
	require.False(t, w.Allowed)
	require.Zero(t, w.Remaining)
	require.Positive(t, w.RetryAfter)
	require.LessOrEqual(t, w.RetryAfter, time.Minute)
	require.InDelta(t, 1, testutil.ToFloat64(b.tel.Metrics.RateLimitRejections), 0)

	var e *apperr.Error
	require.ErrorAs(t, w.Err(), &e)
	require.Equal(t, apperr.RateLimitExceeded, e.Code)
	require.Equal(t, w.RetryAfter, e.RetryAfter)
}

func TestTakeDoesNotChargeWhatItRefuses(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.past(t, 59*time.Second)
	first := b.take(t, 1)
	for range 3 {
		w := b.take(t, 1)
		require.False(t, w.Allowed)
		require.LessOrEqual(t, w.RetryAfter, first.RetryAfter)
		require.Equal(t, first.Reset, w.Reset)
	}
}

func TestTheWindowSlides(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		ages      []time.Duration
		limit     int
		allowed   bool
		remaining int
		retry     time.Duration
	}{
		"what is a minute old counts no more": {
			ages: []time.Duration{61 * time.Second, 60 * time.Second, 10 * time.Second}, limit: 2, allowed: true,
		},
		"what is nearly a minute old counts": {
			ages: []time.Duration{50 * time.Second, 10 * time.Second}, limit: 2, retry: 10 * time.Second,
		},
		"old and new together never exceed the limit": {
			ages: []time.Duration{40 * time.Second, 20 * time.Second, 0}, limit: 3, retry: 20 * time.Second,
		},
		"all but the newest have expired": {
			ages: []time.Duration{90 * time.Second, 80 * time.Second, 70 * time.Second, 60 * time.Second, time.Second}, limit: 10,
			allowed: true, remaining: 8,
		},
		"everything has expired": {
			ages: []time.Duration{90 * time.Second, 80 * time.Second, 70 * time.Second}, limit: 10, allowed: true, remaining: 9,
		},
		"a limit that was lowered waits for all that are too many": {
			ages: []time.Duration{50 * time.Second, 40 * time.Second, 30 * time.Second, 20 * time.Second}, limit: 2, retry: 30 * time.Second,
		},
		"a limit that was raised admits at once": {
			ages: []time.Duration{50 * time.Second, 40 * time.Second}, limit: 4, allowed: true, remaining: 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.past(t, row.ages...)
			w := b.take(t, row.limit)
			require.Equal(t, row.allowed, w.Allowed)
			require.Equal(t, row.remaining, w.Remaining)
			require.InDelta(t, row.retry.Seconds(), w.RetryAfter.Seconds(), 3)
			if !row.allowed {
				require.LessOrEqual(t, w.RetryAfter, row.retry)
			}
		})
	}
}

func TestRetryAfterIsLongEnoughAndNotTooLong(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.past(t, time.Minute-400*time.Millisecond)
	at := time.Now() // before Redis looks at its clock
	refused := b.take(t, 1)
	require.False(t, refused.Allowed)
	require.Eventually(t, func() bool { return b.take(t, 1).Allowed }, 5*time.Second, time.Millisecond)
	require.GreaterOrEqual(t, time.Since(at), refused.RetryAfter)

	// One that waits as long as it is told is admitted.
	again := setup(t)
	again.past(t, time.Minute-300*time.Millisecond)
	refused = again.take(t, 1)
	require.False(t, refused.Allowed)
	<-time.After(refused.RetryAfter)
	require.True(t, again.take(t, 1).Allowed)
}

func TestNeverMoreThanTheLimitAreAdmittedAtOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const limit, clients, each = 50, 16, 20
	b.past(t, 61*time.Second, 59*time.Second) // one expired, one that still counts
	var admitted atomic.Int64
	var group sync.WaitGroup
	for i := range clients {
		group.Go(func() {
			limiter := ratelimit.New(b.rdb, telemetry.Discard("replica "+strconv.Itoa(i)))
			for range each {
				w, err := limiter.Take(t.Context(), "k", limit)
				if err != nil {
					t.Error(err)
				}
				if w.Allowed {
					admitted.Add(1)
				}
			}
		})
	}
	group.Wait()
	require.EqualValues(t, limit-1, admitted.Load())
}

func TestAClockSetBackDoesNotOpenTheWindow(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.past(t, -10*time.Second) // admitted "in the future"
	require.True(t, b.take(t, 2).Allowed)
	w := b.take(t, 2)
	require.False(t, w.Allowed)
	require.LessOrEqual(t, w.RetryAfter, time.Minute)
	ttl, err := b.rdb.PTTL(t.Context(), b.limiter.RedisKey("k")).Result()
	require.NoError(t, err)
	require.Positive(t, ttl)
	require.LessOrEqual(t, ttl, time.Minute+time.Millisecond)
}

func TestKeysAreApartAndGoAwayByThemselves(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := uuid.MustParse("0190a7c0-0000-4000-8000-00000000000a")
	for _, key := range []string{ratelimit.ClientKey(id), ratelimit.ClientKey(uuid.Nil)} {
		w, err := b.limiter.Take(t.Context(), key, 1)
		require.NoError(t, err)
		require.True(t, w.Allowed)
		ttl, err := b.rdb.PTTL(t.Context(), b.limiter.RedisKey(key)).Result()
		require.NoError(t, err)
		require.Positive(t, ttl)
		require.LessOrEqual(t, ttl, time.Minute+time.Millisecond)
	}
}

func TestALimitOfZeroIsOff(t *testing.T) {
	t.Parallel()
	// No Redis at all: it must not be asked.
	limiter := ratelimit.New(nil, telemetry.Discard("test"))
	w, err := limiter.Take(t.Context(), "k", 0)
	require.NoError(t, err)
	require.Equal(t, ratelimit.Window{Allowed: true}, w)
	w, err = limiter.Read(t.Context(), 0, nil, errors.New("redis is away"))
	require.NoError(t, err)
	require.Equal(t, ratelimit.Window{Allowed: true}, w)
	w, err = limiter.Queue(t.Context(), nil, "k", 0)()
	require.NoError(t, err)
	require.Equal(t, ratelimit.Window{Allowed: true}, w)
	h := http.Header{}
	ratelimit.WriteHeaders(h, w)
	require.Empty(t, h)
}

func TestQueueSharesAPipeline(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for i, allowed := range []bool{true, true, false} {
		pipe := b.rdb.Pipeline()
		window := b.limiter.Queue(t.Context(), pipe, "k", 2)
		pong := pipe.Ping(t.Context())
		_, _ = pipe.Exec(t.Context())
		w, err := window()
		require.NoError(t, err)
		require.Equal(t, allowed, w.Allowed, i)
		require.Equal(t, "PONG", pong.Val())
	}
	require.Zero(t, opened(t, b.tel))
}

func TestQueueSurvivesAServerThatForgotTheScript(t *testing.T) {
	t.Parallel()
	server := testkit.RedisServer(t)
	tel := telemetry.Discard("test")
	rdb := open(t, server.URL(), tel)
	limiter := ratelimit.New(rdb, tel)
	for _, remaining := range []int{1, 0} {
		require.NoError(t, rdb.ScriptFlush(t.Context()).Err())
		pipe := rdb.Pipeline()
		window := limiter.Queue(t.Context(), pipe, "k", 2)
		_, err := pipe.Exec(t.Context())
		require.True(t, redis.HasErrorPrefix(err, "NOSCRIPT"), "the test must begin without the script")
		w, err := window()
		require.NoError(t, err)
		require.True(t, w.Allowed)
		require.Equal(t, remaining, w.Remaining)
	}
	require.Zero(t, opened(t, tel))
}

func TestWithoutRedisTheLimitIsOpen(t *testing.T) {
	t.Parallel()
	server := testkit.RedisServer(t)
	tel := telemetry.Discard("test")
	rdb := open(t, server.URL(), tel)
	limiter := ratelimit.New(rdb, tel)
	_, err := limiter.Take(t.Context(), "k", 1)
	require.NoError(t, err)
	server.Stop()
	for range 3 {
		w, err := limiter.Take(t.Context(), "k", 1)
		require.NoError(t, err)
		require.True(t, w.Allowed)
		require.Equal(t, 1, w.Remaining)
	}
	pipe := rdb.Pipeline()
	window := limiter.Queue(t.Context(), pipe, "k", 1)
	_, _ = pipe.Exec(t.Context())
	w, err := window()
	require.NoError(t, err)
	require.True(t, w.Allowed)
	require.InDelta(t, 4, opened(t, tel), 0)
	require.InDelta(t, 0, testutil.ToFloat64(tel.Metrics.RateLimitRejections), 0)
}

func TestARequestThatWasGivenUpIsNotAdmitted(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := b.limiter.Take(ctx, "k", 1)
	require.ErrorIs(t, err, context.Canceled)
}

func TestLuaWorksInsideAnotherScript(t *testing.T) {
	t.Parallel()
	b := setup(t)
	script := redis.NewScript(ratelimit.Lua + `
local window = take(KEYS[1], tonumber(ARGV[1]))
return {window, redis.call('INCR', KEYS[2])}`)
	keys := []string{b.limiter.RedisKey("k"), b.rdb.Key("quota")}
	for i, allowed := range []bool{true, false} {
		reply, err := script.Run(t.Context(), b.rdb, keys, 1).Slice()
		require.NoError(t, err)
		w, err := b.limiter.Read(t.Context(), 1, reply[0], nil)
		require.NoError(t, err)
		require.Equal(t, allowed, w.Allowed)
		require.EqualValues(t, i+1, reply[1])
	}
	require.False(t, b.take(t, 1).Allowed, "both count on the same key")
}

func TestReadOpensForAnAnswerItDoesNotUnderstand(t *testing.T) {
	t.Parallel()
	tel := telemetry.Discard("test")
	limiter := ratelimit.New(nil, tel)
	for _, reply := range []any{nil, "OK", []any{}, []any{int64(0), int64(0), int64(0)}, []any{int64(0), "0", int64(0), int64(0)}} {
		w, err := limiter.Read(t.Context(), 7, reply, nil)
		require.NoError(t, err)
		require.True(t, w.Allowed, fmt.Sprint(reply))
	}
	w, err := limiter.Read(t.Context(), 7, nil, errors.New("OOM command not allowed"))
	require.NoError(t, err)
	require.True(t, w.Allowed)
	require.InDelta(t, 6, opened(t, tel), 0)
}

func TestWriteHeaders(t *testing.T) {
	t.Parallel()
	h := http.Header{}
	ratelimit.WriteHeaders(h, ratelimit.Window{Limit: 100, Remaining: 7, Reset: time.Unix(1000, 1)})
	require.Equal(t, http.Header{
		"X-Ratelimit-Limit": {"100"}, "X-Ratelimit-Remaining": {"7"}, "X-Ratelimit-Reset": {"1001"},
	}, h)
	ratelimit.WriteHeaders(h, ratelimit.Untouched(100, time.Unix(1000, 0)))
	require.Equal(t, http.Header{
		"X-Ratelimit-Limit": {"100"}, "X-Ratelimit-Remaining": {"100"}, "X-Ratelimit-Reset": {"1060"},
	}, h)
}

func open(t *testing.T, url string, tel *telemetry.Telemetry) *redisx.Client {
	t.Helper()
	rdb, err := redisx.Open(redisx.Config{URL: config.Secret(url), KeyPrefix: "test:"}, tel)
	require.NoError(t, err)
	t.Cleanup(func() { _ = rdb.Close() })
	return rdb
}

// opened reads agentidp_rate_limit_open_total.
func opened(t *testing.T, tel *telemetry.Telemetry) float64 {
	t.Helper()
	families, err := tel.Metrics.Registry.Gather()
	require.NoError(t, err)
	for _, f := range families {
		if f.GetName() == "agentidp_rate_limit_open_total" {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatal("the metric is not registered")
	return 0
}

func BenchmarkTake(b *testing.B) {
	limiter := ratelimit.New(testkit.Redis(b), telemetry.Discard("test"))
	for b.Loop() {
		if _, err := limiter.Take(b.Context(), "k", 100); err != nil {
			b.Fatal(err)
		}
	}
}
