package quota_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/pkg/ratelimit"
	"github.com/sentryagent/agentidp/pkg/redisx"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/pkg/testkit"
	"github.com/sentryagent/agentidp/services/token/internal/issue"
	"github.com/sentryagent/agentidp/services/token/internal/postgres"
	"github.com/sentryagent/agentidp/services/token/internal/quota"
)

const (
	soon  = 10 * time.Second
	often = 10 * time.Millisecond
)

var (
	noon     = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	november = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
)

// redisServer is a server that a test may stop and restart.
type redisServer interface {
	URL() string
	Stop()
	Restart(ctx context.Context) error
	Freeze() error
	Thaw() error
}

// bundle is one deployment: a Redis and a database that replicas share.
type bundle struct {
	server redisServer
	redis  *redisx.Client
	db     *pgdb.DB
	store  *postgres.Quota
	clock  *testkit.Clock
	client uuid.UUID
}

func setup(t *testing.T) *bundle {
	t.Helper()
	return setupOn(t, testkit.RedisServer(t))
}

func setupOn(t *testing.T, server redisServer) *bundle {
	t.Helper()
	b := &bundle{server: server, db: testkit.DB(t, "token"), clock: testkit.NewClock(noon), client: uuid.Must(uuid.NewV7())}
	b.redis = testkit.OpenRedis(t, b.server.URL())
	b.store = postgres.NewQuota(b.db)
	return b
}

// replica makes a Budget; running, it also writes behind.
func (b *bundle) replica(t *testing.T, rate int, monthly int64, running bool) *quota.Budget {
	t.Helper()
	budget := quota.New(b.config(telemetry.Discard("test"), rate, monthly))
	if running {
		return b.run(t, budget)
	}
	return budget
}

// run has the budget write behind until the test ends.
func (b *bundle) run(t *testing.T, budget *quota.Budget) *quota.Budget {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- budget.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	return budget
}

func (b *bundle) config(tel *telemetry.Telemetry, rate int, monthly int64) quota.Config {
	return quota.Config{
		Redis: b.redis, Limiter: ratelimit.New(b.redis, tel), Store: b.store,
		Clock: b.clock.Now, Log: slog.New(slog.DiscardHandler), RatePerMinute: rate, TokensPerMonth: monthly,
	}
}

func (b *bundle) spend(t *testing.T, budget *quota.Budget) issue.Charge {
	t.Helper()
	charge, err := budget.Spend(t.Context(), b.client)
	require.NoError(t, err)
	return charge
}

// counter is the key of the counter at the server that answers now.
func (b *bundle) counter() string {
	return b.redis.Key("quota", b.client.String(), "2026-11", b.redis.RunID())
}

func (b *bundle) used(t *testing.T) int64 {
	t.Helper()
	used, err := b.store.Used(t.Context(), b.client, november)
	require.NoError(t, err)
	return used
}

func TestTheQuotaIsExactOverReplicasAndClients(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var taken, refused atomic.Int64
	var group sync.WaitGroup
	for range 3 {
		budget := b.replica(t, 0, 40, true)
		for range 64 {
			group.Go(func() {
				charge, err := budget.Spend(t.Context(), b.client)
				require.NoError(t, err)
				if charge.QuotaExceeded {
					refused.Add(1)
				} else {
					taken.Add(1)
				}
			})
		}
	}
	group.Wait()
	require.EqualValues(t, 40, taken.Load())
	require.EqualValues(t, 3*64-40, refused.Load())
	require.Eventually(t, func() bool { return b.used(t) == 40 }, soon, often, "the count is written behind")
}

func TestTheRateWindowComesFirstAndCostsNoToken(t *testing.T) {
	t.Parallel()
	b := setup(t)
	budget := b.replica(t, 2, 10, true)
	require.Equal(t, 1, b.spend(t, budget).Window.Remaining)
	require.True(t, b.spend(t, budget).Window.Allowed)
	third := b.spend(t, budget)
	require.False(t, third.Window.Allowed)
	require.Positive(t, third.Window.RetryAfter)
	require.Eventually(t, func() bool { return b.used(t) == 2 }, soon, often)
	window, err := budget.Request(t.Context(), b.client)
	require.NoError(t, err)
	require.False(t, window.Allowed, "the window is one")
	require.Equal(t, 2, budget.Untouched().Remaining)
	require.EqualValues(t, 10, budget.MonthlyLimit())
}

func TestWithoutAQuotaNothingIsCounted(t *testing.T) {
	t.Parallel()
	b := setup(t)
	budget := b.replica(t, 0, 0, false)
	b.server.Stop()
	charge := b.spend(t, budget)
	require.True(t, charge.Window.Allowed)
	require.False(t, charge.QuotaExceeded)
	budget.Refund(t.Context(), charge)
	require.Zero(t, b.used(t))
}

func TestTheMonthIsThatOfTheCalendarInUTC(t *testing.T) {
	t.Parallel()
	west, east := time.FixedZone("", -12*3600), time.FixedZone("", 14*3600)
	for name, edge := range map[string]time.Time{
		"november to december":   time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC),
		"a year to the next one": time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC),
		"the end of a february":  time.Date(2028, 3, 1, 0, 0, 0, 0, time.UTC),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.clock = testkit.NewClock(edge.Add(-time.Nanosecond).In(east)) // where the new month has begun
			budget := b.replica(t, 0, 1, true)
			first := b.spend(t, budget)
			require.False(t, first.QuotaExceeded)
			require.Equal(t, edge.AddDate(0, -1, 0), first.Month)
			require.True(t, b.spend(t, budget).QuotaExceeded)
			b.clock = testkit.NewClock(edge.In(west)) // where the old one goes on
			later := b.replica(t, 0, 1, true)
			second := b.spend(t, later)
			require.False(t, second.QuotaExceeded)
			require.Equal(t, edge, second.Month)
			require.True(t, b.spend(t, later).QuotaExceeded)
			require.True(t, b.spend(t, budget).QuotaExceeded, "a replica whose clock is behind counts to the old month")
		})
	}
}

func TestACounterOutlivesItsMonthByADayAsClocksDiffer(t *testing.T) {
	t.Parallel()
	b := setup(t)
	require.False(t, b.spend(t, b.replica(t, 0, 1, false)).QuotaExceeded)
	lifetime, err := b.redis.PTTL(t.Context(), b.counter()).Result()
	require.NoError(t, err)
	require.InDelta(t, november.AddDate(0, 1, 1).Sub(noon), lifetime, float64(time.Minute))
}

func TestWhatAKilledReplicaHadWrittenIsReadBackByTheNextOne(t *testing.T) {
	t.Parallel()
	b := setup(t)
	killed := b.replica(t, 0, 10, true)
	for range 7 {
		require.False(t, b.spend(t, killed).QuotaExceeded)
	}
	require.Eventually(t, func() bool { return b.used(t) == 7 }, soon, often)
	require.NoError(t, b.redis.FlushAll(t.Context()).Err())
	cold := b.replica(t, 0, 10, true)
	for range 3 {
		require.False(t, b.spend(t, cold).QuotaExceeded)
	}
	require.True(t, b.spend(t, cold).QuotaExceeded)
}

func TestARefundFreesAToken(t *testing.T) {
	t.Parallel()
	b := setup(t)
	budget := b.replica(t, 0, 1, false)
	first := b.spend(t, budget)
	require.False(t, first.QuotaExceeded)
	budget.Refund(t.Context(), first)
	second := b.spend(t, budget)
	require.False(t, second.QuotaExceeded)
	require.True(t, b.spend(t, budget).QuotaExceeded)

	b.server.Stop()
	require.True(t, b.spend(t, budget).QuotaExceeded)
	budget.Refund(t.Context(), second)
}

func TestARefundGoesToTheMonthOfTheCharge(t *testing.T) {
	t.Parallel()
	b := setup(t)
	budget := b.replica(t, 0, 2, false)
	november := b.spend(t, budget)
	require.False(t, november.QuotaExceeded)
	b.clock.Advance(9 * 24 * time.Hour) // December in UTC
	require.False(t, b.spend(t, budget).QuotaExceeded)
	budget.Refund(t.Context(), november)
	used, err := b.redis.Get(t.Context(), b.counter()).Int64()
	require.NoError(t, err)
	require.Zero(t, used, "november")
	require.False(t, b.spend(t, budget).QuotaExceeded)
	require.True(t, b.spend(t, budget).QuotaExceeded, "december got nothing back")
}

func TestACounterThatRedisLostWaitsForAllReplicas(t *testing.T) {
	t.Parallel()
	b := setup(t)
	one, two := b.replica(t, 0, 10, true), b.replica(t, 0, 10, true)
	for range 4 {
		require.False(t, b.spend(t, one).QuotaExceeded)
		require.False(t, b.spend(t, two).QuotaExceeded)
	}
	require.NoError(t, b.redis.FlushAll(t.Context()).Err()) // within the time of the write-behind
	require.False(t, b.spend(t, one).QuotaExceeded)
	require.False(t, b.spend(t, two).QuotaExceeded)
	require.True(t, b.spend(t, one).QuotaExceeded)
	require.True(t, b.spend(t, two).QuotaExceeded)
}

func TestAnOlderCountThatRedisComesBackWithIsNotBelieved(t *testing.T) {
	t.Parallel()
	b := setupOn(t, testkit.PersistentRedisServer(t))
	budgets := []*quota.Budget{b.replica(t, 0, 20, true), b.replica(t, 0, 20, true)}
	for i := range 18 {
		require.False(t, b.spend(t, budgets[i%2]).QuotaExceeded)
	}
	require.Eventually(t, func() bool { return b.used(t) == 18 }, soon, often)
	stale := b.counter()
	require.NoError(t, b.redis.Set(t.Context(), stale, 5, redis.KeepTTL).Err())
	require.NoError(t, b.server.Restart(t.Context()))

	var taken atomic.Int64
	var group sync.WaitGroup
	for i := range 64 {
		group.Go(func() {
			charge, err := budgets[i%2].Spend(t.Context(), b.client)
			require.NoError(t, err)
			if !charge.QuotaExceeded {
				taken.Add(1)
			}
		})
	}
	group.Wait()
	require.EqualValues(t, 2, taken.Load())
	require.NotEqual(t, stale, b.counter())
	require.EqualValues(t, 1, b.redis.Exists(t.Context(), stale).Val(), "redis did keep its data")
	require.Eventually(t, func() bool { return b.used(t) == 20 }, soon, often)
}

func TestARefundAtARestartedRedisForgetsNoCount(t *testing.T) {
	t.Parallel()
	b := setupOn(t, testkit.PersistentRedisServer(t))
	budget := b.replica(t, 0, 10, false) // nothing is written behind: only this replica knows the count
	var charge issue.Charge
	for range 10 {
		charge = b.spend(t, budget)
		require.False(t, charge.QuotaExceeded)
	}
	require.NoError(t, b.redis.Set(t.Context(), b.counter(), 3, redis.KeepTTL).Err())
	require.NoError(t, b.server.Restart(t.Context()))
	budget.Refund(t.Context(), charge)
	require.True(t, b.spend(t, budget).QuotaExceeded)
}

func TestTheQuotaIsExactInPostgresWhileRedisIsAway(t *testing.T) {
	t.Parallel()
	for how, leave := range map[string]func(t *testing.T, server redisServer) (back func()){
		"and refuses": func(t *testing.T, server redisServer) func() {
			t.Helper()
			server.Stop()
			return func() { require.NoError(t, server.Restart(t.Context())) }
		},
		"and hangs": func(t *testing.T, server redisServer) func() {
			t.Helper()
			return testkit.Freeze(t, server)
		},
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			server := testkit.RedisServer(t)
			b := setupOn(t, server)
			budget := b.replica(t, 100, 20, true)
			for range 5 {
				require.False(t, b.spend(t, budget).QuotaExceeded)
			}
			back := leave(t, server)
			var taken atomic.Int64
			var group sync.WaitGroup
			for range 40 {
				group.Go(func() {
					charge, err := budget.Spend(t.Context(), b.client)
					if err != nil || !charge.Window.Allowed { // the rate window is open
						t.Errorf("%+v, %v", charge, err)
					}
					if !charge.QuotaExceeded {
						taken.Add(1)
					}
				})
			}
			group.Wait()
			require.EqualValues(t, 15, taken.Load())

			back()
			require.Eventually(t, func() bool { return b.redis.Ping(t.Context()).Err() == nil }, soon, often)
			require.True(t, b.spend(t, budget).QuotaExceeded, "what postgres counted is not forgotten")
		})
	}
}

// slowStore holds up the first Take until it may go on.
type slowStore struct {
	quota.Store

	held             atomic.Bool
	entered, proceed chan struct{}
}

func (s *slowStore) Take(ctx context.Context, seen quota.Count, limit int64) (taken bool, err error) {
	if s.held.CompareAndSwap(false, true) {
		close(s.entered)
		<-s.proceed
	}
	return s.Store.Take(ctx, seen, limit)
}

func TestTheRateWindowStaysShutWhileACountIsChargedInPostgres(t *testing.T) {
	t.Parallel()
	b := setup(t)
	tel := telemetry.Discard("test")
	slow := &slowStore{Store: b.store, entered: make(chan struct{}), proceed: make(chan struct{})}
	cfg := b.config(tel, 2, 10)
	cfg.Store = slow
	budget := quota.New(cfg)
	opened := func() float64 {
		families, err := tel.Metrics.Registry.Gather()
		require.NoError(t, err)
		for _, family := range families {
			if family.GetName() == "agentidp_rate_limit_open_total" {
				return family.GetMetric()[0].GetCounter().GetValue()
			}
		}
		t.Fatal("no such metric")
		return 0
	}

	b.server.Stop()
	first := make(chan error, 1)
	go func() {
		_, err := budget.Spend(t.Context(), b.client)
		first <- err
	}()
	<-slow.entered
	require.InDelta(t, 1, opened(), 0, "redis is away")
	require.NoError(t, b.server.Restart(t.Context()))
	require.Eventually(t, func() bool { return b.redis.Ping(t.Context()).Err() == nil }, soon, often)
	for range 2 {
		charge := b.spend(t, budget)
		require.True(t, charge.Window.Allowed)
		require.Equal(t, 2, charge.Window.Limit)
	}
	require.False(t, b.spend(t, budget).Window.Allowed, "the window is charged")
	require.InDelta(t, 1, opened(), 0, "redis answers")
	close(slow.proceed)
	require.NoError(t, <-first)
	require.EqualValues(t, 3, b.used(t), "who was refused costs no token")
}

func TestWhatPostgresCountedIsNotForgottenWhenRedisReturns(t *testing.T) {
	t.Parallel()
	b := setup(t)
	away, reaches := b.replica(t, 0, 10, false), b.replica(t, 0, 10, true)
	require.False(t, b.spend(t, reaches).QuotaExceeded)
	require.Eventually(t, func() bool { return b.used(t) == 1 }, soon, often)

	// One replica alone lost its way to Redis, and counts in Postgres.
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	for used := int64(1); used < 9; used++ {
		taken, err := b.store.Take(ctx, quota.Count{AgentID: b.client, Month: november}, 10)
		require.NoError(t, err)
		require.True(t, taken)
	}
	require.False(t, b.spend(t, reaches).QuotaExceeded)
	key := b.counter()
	require.Eventually(t, func() bool {
		used, err := b.redis.Get(t.Context(), key).Int64()
		return err == nil && used >= 9
	}, soon, often, "the write-behind finds the higher count and raises the one in redis")
	require.False(t, b.spend(t, away).QuotaExceeded)
	require.True(t, b.spend(t, reaches).QuotaExceeded)

	b.server.Stop()
	require.True(t, b.spend(t, away).QuotaExceeded)
	require.NoError(t, b.server.Restart(t.Context()))
	require.Eventually(t, func() bool { return b.redis.Ping(t.Context()).Err() == nil }, soon, often)
	require.True(t, b.spend(t, away).QuotaExceeded)
}

// countingStore counts the statements that a request waits for.
type countingStore struct {
	quota.Store

	statements, raised atomic.Int64
}

func (s *countingStore) Open(ctx context.Context, id uuid.UUID, month time.Time) (bool, error) {
	s.statements.Add(1)
	return s.Store.Open(ctx, id, month)
}

func (s *countingStore) Used(ctx context.Context, id uuid.UUID, month time.Time) (int64, error) {
	s.statements.Add(1)
	return s.Store.Used(ctx, id, month)
}

func (s *countingStore) Take(ctx context.Context, seen quota.Count, limit int64) (bool, error) {
	s.statements.Add(1)
	return s.Store.Take(ctx, seen, limit)
}

func (s *countingStore) Raise(ctx context.Context, seen []quota.Count) ([]quota.Count, error) {
	s.raised.Add(1)
	return s.Store.Raise(ctx, seen)
}

func TestNoTokenOfAKnownClientWaitsForPostgresHoweverManyReplicasCount(t *testing.T) {
	t.Parallel()
	b := setup(t)
	store := &countingStore{Store: b.store}
	var budgets []*quota.Budget
	for range 2 {
		cfg := b.config(telemetry.Discard("test"), 0, 1_000_000)
		cfg.Store = store
		budgets = append(budgets, b.run(t, quota.New(cfg)))
	}
	require.False(t, b.spend(t, budgets[0]).QuotaExceeded)
	cold := store.statements.Load()
	require.Positive(t, cold)
	var spent int64
	for ; store.raised.Load() < 10 || spent < 100; spent++ {
		require.False(t, b.spend(t, budgets[spent%2]).QuotaExceeded)
	}
	// Not none: a machine that stalls for longer than Redis is waited for has a token counted in Postgres.
	require.Less(t, store.statements.Load()-cold, spent/10)
}

func TestAQuotaThatIsNotKnownIsAnError(t *testing.T) {
	t.Parallel()
	b := setup(t)
	budget := b.replica(t, 0, 10, false)
	b.db.Close()
	_, err := budget.Spend(t.Context(), b.client)
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err), "cold")
	b.server.Stop()
	_, err = budget.Spend(t.Context(), b.client)
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err), "without redis")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = budget.Spend(ctx, b.client)
	require.True(t, errors.Is(err, context.Canceled) || apperr.CodeOf(err) == apperr.ServiceUnavailable)
}

func TestFailuresAreLimitedPerClientAndAddressAndPerAddress(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	failures := quota.NewFailures(rdb, ratelimit.New(rdb, telemetry.Discard("test")), 2)
	count := func(client, address string) bool { return failures.Count(t.Context(), client, address) > 0 }
	require.False(t, count("a", "192.0.2.1"))
	require.False(t, count("a", "192.0.2.1"))
	require.True(t, count("a", "192.0.2.1"))
	require.False(t, count("a", "192.0.2.2"), "another address")
	require.False(t, count("b", "192.0.2.1"), "another client")
	for i := range 30 {
		count(string(rune('c'+i)), "192.0.2.1")
	}
	require.True(t, count("z", "192.0.2.1"), "ten times as many for the address")
	require.False(t, count("v6", "2001:db8:0:1::1"))
	require.False(t, count("v6", "2001:db8:0:1:ffff::2"))
	require.True(t, count("v6", "2001:db8:0:1:1:2:3:4"), "who has an address has all of its network")
	require.False(t, count("v6", "2001:db8:0:2::1"), "another network")
	require.Zero(t, quota.NewFailures(rdb, ratelimit.New(rdb, telemetry.Discard("test")), 0).Count(t.Context(), "a", "192.0.2.1"))
}

func TestFailuresAreNotLimitedWithoutRedis(t *testing.T) {
	t.Parallel()
	server := testkit.RedisServer(t)
	rdb := testkit.OpenRedis(t, server.URL())
	server.Stop()
	failures := quota.NewFailures(rdb, ratelimit.New(rdb, telemetry.Discard("test")), 1)
	for range 3 {
		require.Zero(t, failures.Count(t.Context(), "a", "192.0.2.1"))
	}
}
