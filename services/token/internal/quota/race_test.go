package quota_test

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/services/token/internal/issue"
	"github.com/sentryagent/agentidp/services/token/internal/quota"
)

// way is what happens to the commands of one request on their way to Redis.
type way func(command func() error) error

type wayKey struct{}

// by has the commands that are given ctx go that way.
func by(ctx context.Context, w way) context.Context { return context.WithValue(ctx, wayKey{}, w) }

// nowhere is the way of a request that cannot reach Redis, as when its dial fails or the pool is exhausted.
func nowhere(func() error) error { return errors.New("no way to redis") }

// straight is the way of a request that reaches Redis.
func straight(command func() error) error { return command() }

// ways is the hook that looks for the way in the context.
type ways struct{}

func (ways) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		return next(ctx, network, address)
	}
}

func (ways) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		w, ok := ctx.Value(wayKey{}).(way)
		if !ok {
			return next(ctx, cmd)
		}
		err := w(func() error { return next(ctx, cmd) })
		cmd.SetErr(err)
		return err
	}
}

func (ways) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// hold stops the first who comes until it is let go.
type hold struct {
	taken            atomic.Bool
	reached, proceed chan struct{}
}

func newHold() *hold { return &hold{reached: make(chan struct{}), proceed: make(chan struct{})} }

func (h *hold) pass() {
	if h.taken.CompareAndSwap(false, true) {
		close(h.reached)
		<-h.proceed
	}
}

// race is a Budget of which nothing goes on but what the test asks for.
type race struct {
	*bundle

	budget *quota.Budget
}

func setupRace(t *testing.T, monthly int64, wrap func(quota.Store) quota.Store) *race {
	t.Helper()
	r := &race{bundle: setup(t)}
	r.redis.AddHook(ways{})
	cfg := r.config(telemetry.Discard("test"), 0, monthly)
	if wrap != nil {
		cfg.Store = wrap(cfg.Store)
	}
	r.budget = quota.New(cfg)
	return r
}

// spendBy spends one token, whose commands to Redis go that way.
func (r *race) spendBy(t *testing.T, w way) {
	t.Helper()
	charge, err := r.budget.Spend(by(t.Context(), w), r.client)
	require.NoError(t, err)
	require.False(t, charge.QuotaExceeded)
}

// spends begins to spend one token; done answers what became of it.
func (r *race) spends(ctx context.Context) (done func(t *testing.T) issue.Charge) {
	type outcome struct {
		charge issue.Charge
		err    error
	}
	outcomes := make(chan outcome, 1)
	go func() {
		charge, err := r.budget.Spend(ctx, r.client)
		outcomes <- outcome{charge, err}
	}()
	return func(t *testing.T) issue.Charge {
		t.Helper()
		select {
		case o := <-outcomes:
			require.NoError(t, o.err)
			return o.charge
		case <-time.After(soon):
			t.Fatal("no answer")
			return issue.Charge{}
		}
	}
}

// exhausted requires that the quota is used up, to who reaches Redis and to who does not.
func (r *race) exhausted(t *testing.T) {
	t.Helper()
	require.True(t, r.spend(t, r.budget).QuotaExceeded, "in redis")
	charge, err := r.budget.Spend(by(t.Context(), nowhere), r.client)
	require.NoError(t, err)
	require.True(t, charge.QuotaExceeded, "in postgres")
}

// stoppingStore stops the first who read the count it names, before they learn it.
type stoppingStore struct {
	quota.Store

	at   int64
	hold *hold
}

func (s *stoppingStore) Used(ctx context.Context, id uuid.UUID, month time.Time) (int64, error) {
	used, err := s.Store.Used(ctx, id, month)
	if used == s.at {
		s.hold.pass()
	}
	return used, err
}

func TestACountThatChangedWhileRedisWasRaisedToItIsNotTakenForLevel(t *testing.T) {
	t.Parallel()
	held := newHold()
	r := setupRace(t, 4, func(store quota.Store) quota.Store { return &stoppingStore{Store: store, at: 2, hold: held} })
	require.False(t, r.spend(t, r.budget).QuotaExceeded)
	r.spendBy(t, nowhere) // the second one is counted in postgres

	third := r.spends(t.Context()) // is about to raise redis to two
	<-held.reached
	r.spendBy(t, nowhere)
	close(held.proceed)
	require.False(t, third(t).QuotaExceeded)
	r.exhausted(t)
}

func TestNoTokenIsLostThatRedisCountsWhilePostgresDoes(t *testing.T) {
	t.Parallel()
	beforeItArrives := func(h *hold) way {
		return func(command func() error) error {
			h.pass()
			return command()
		}
	}
	beforeItsAnswer := func(h *hold) way {
		return func(command func() error) error {
			err := command()
			h.pass()
			return err
		}
	}
	for name, test := range map[string]struct {
		slow  func(*hold) way
		other []way // of the requests that begin and end while the slow one is under way
	}{
		"a command that redis counts afterwards":          {beforeItArrives, []way{nowhere}},
		"a command that redis counted before":             {beforeItsAnswer, []way{nowhere}},
		"redis is reached again before the command is":    {beforeItArrives, []way{nowhere, straight}},
		"redis is reached again before the answer is":     {beforeItsAnswer, []way{nowhere, straight}},
		"some reach redis and some do not, all the while": {beforeItsAnswer, []way{straight, nowhere, straight, nowhere}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := setupRace(t, int64(len(test.other))+3, nil)
			require.False(t, r.spend(t, r.budget).QuotaExceeded)
			held := newHold()
			slow := r.spends(by(t.Context(), test.slow(held)))
			<-held.reached
			for _, w := range test.other {
				r.spendBy(t, w)
			}
			close(held.proceed)
			require.False(t, slow(t).QuotaExceeded)
			require.False(t, r.spend(t, r.budget).QuotaExceeded, "nothing was counted that nobody got")
			r.exhausted(t)
		})
	}
}

// flush writes behind once.
func (r *race) flush(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, r.budget.Run(ctx))
}

// busyStore has something else happen before a token is given back.
type busyStore struct {
	quota.Store

	meanwhile func()
}

func (s *busyStore) GiveBack(ctx context.Context, id uuid.UUID, month time.Time) error {
	s.meanwhile()
	return s.Store.GiveBack(ctx, id, month)
}

func TestARefundTakesBackNoTokenThatWasCountedMeanwhile(t *testing.T) {
	t.Parallel()
	t.Run("and is written", func(t *testing.T) {
		t.Parallel()
		store := &busyStore{}
		r := setupRace(t, 10, func(inner quota.Store) quota.Store {
			store.Store = inner
			return store
		})
		store.meanwhile = sync.OnceFunc(func() {
			require.False(t, r.spend(t, r.budget).QuotaExceeded)
			r.flush(t)
		})
		charge := r.spend(t, r.budget)
		r.flush(t)
		r.budget.Refund(t.Context(), charge)
		store.meanwhile()
		require.EqualValues(t, 1, r.used(t))
	})
	t.Run("and is seen before the answer of the refund", func(t *testing.T) {
		t.Parallel()
		r := setupRace(t, 10, nil)
		charge := r.spend(t, r.budget)
		held, done := newHold(), make(chan struct{})
		go func() {
			defer close(done)
			r.budget.Refund(by(t.Context(), func(command func() error) error {
				err := command()
				if err == nil {
					held.pass()
				}
				return err
			}), charge)
		}()
		<-held.reached
		require.False(t, r.spend(t, r.budget).QuotaExceeded)
		close(held.proceed)
		<-done
		r.flush(t)
		require.EqualValues(t, 1, r.used(t))
	})
}

func TestARefundGoesToWhereTheTokenWasCounted(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		spend           func(t *testing.T, r *race) issue.Charge
		redis, postgres int64 // after the refund
	}{
		"in redis": {func(t *testing.T, r *race) issue.Charge {
			t.Helper()
			return r.spend(t, r.budget)
		}, 1, 0},
		"in postgres, without redis": {func(t *testing.T, r *race) issue.Charge {
			t.Helper()
			return r.spends(by(t.Context(), nowhere))(t)
		}, 1, 1},
		"in postgres, beside a redis that is not level yet": {func(t *testing.T, r *race) issue.Charge {
			t.Helper()
			held := newHold()
			slow := r.spends(by(t.Context(), func(command func() error) error {
				held.pass()
				return command()
			}))
			<-held.reached
			r.spendBy(t, nowhere)
			charge := r.spend(t, r.budget)
			close(held.proceed)
			require.False(t, slow(t).QuotaExceeded)
			return charge
		}, 2, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := setupRace(t, 10, nil)
			require.False(t, r.spend(t, r.budget).QuotaExceeded)
			charge := test.spend(t, r)
			require.False(t, charge.QuotaExceeded)
			r.budget.Refund(t.Context(), charge)
			used, err := r.redis.Get(t.Context(), r.counter()).Int64()
			require.NoError(t, err)
			require.Equal(t, test.redis, used)
			require.Equal(t, test.postgres, r.used(t))
		})
	}
}

// moved has something happen after redis answered the first pipeline.
type moved struct {
	ways

	taken     atomic.Bool
	meanwhile func() // a connection it makes begins by a pipeline too
}

func (m *moved) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		if m.taken.CompareAndSwap(false, true) {
			m.meanwhile()
		}
		return err
	}
}

// restart replaces the server; the client has noticed.
func (r *race) restart(t *testing.T) {
	t.Helper()
	require.NoError(t, r.server.Restart(t.Context()))
	require.NoError(t, r.redis.Ping(t.Context()).Err())
}

// late is the way of commands before whose first something else happens.
func late(meanwhile func()) way {
	once := sync.OnceFunc(meanwhile)
	return func(command func() error) error {
		once()
		return command()
	}
}

func TestACountThatRedisKeptOfAnEarlierLifeIsNotChargedOnTheWayToTheNextOne(t *testing.T) {
	t.Parallel()
	r := setupRace(t, 3, nil)
	for range 3 {
		require.False(t, r.spend(t, r.budget).QuotaExceeded)
	}
	charge := r.spends(by(t.Context(), late(func() {
		kept := r.counter()
		r.restart(t)
		require.NoError(t, r.redis.Set(t.Context(), kept, 1, 0).Err())
	})))(t)
	require.True(t, charge.QuotaExceeded)
}

func TestACounterThatIsCaughtUpWithWhileRedisRestartsIsRaisedAgain(t *testing.T) {
	t.Parallel()
	r := setupRace(t, 4, nil)
	require.False(t, r.spend(t, r.budget).QuotaExceeded)
	r.spendBy(t, nowhere) // the second one is counted in postgres
	r.spendBy(t, late(func() {
		r.restart(t)
		require.NoError(t, r.redis.Set(t.Context(), r.counter(), 1, 0).Err(), "which another replica loaded before")
	}))
	require.False(t, r.spend(t, r.budget).QuotaExceeded)
	r.exhausted(t)
}

func TestACounterThatWasRaisedAtAServerThatIsGoneIsRaisedAgain(t *testing.T) {
	t.Parallel()
	r := setupRace(t, 4, nil)
	require.False(t, r.spend(t, r.budget).QuotaExceeded)
	for range 3 { // by a replica that does not reach redis
		taken, err := r.store.Take(t.Context(), quota.Count{AgentID: r.client, Month: november}, 4)
		require.NoError(t, err)
		require.True(t, taken)
	}
	r.redis.AddHook(&moved{meanwhile: func() {
		r.restart(t)
		require.NoError(t, r.redis.Set(t.Context(), r.counter(), 1, 0).Err(), "which another replica loaded before")
	}})
	r.flush(t)
	require.False(t, r.spend(t, r.budget).QuotaExceeded)
	r.exhausted(t)
}

// deafConn loses one answer when it is told to.
type deafConn struct {
	net.Conn

	deaf *atomic.Bool
}

func (c deafConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.deaf.CompareAndSwap(true, false) {
		return 0, io.EOF
	}
	return n, err
}

// deafness has all connections lose an answer when it is told to.
type deafness struct {
	ways

	deaf *atomic.Bool
}

func (d deafness) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := next(ctx, network, address)
		return deafConn{conn, d.deaf}, err
	}
}

func TestARefundWhoseAnswerWasLostGivesBackOneToken(t *testing.T) {
	t.Parallel()
	r := &race{bundle: setup(t)}
	deaf := &atomic.Bool{}
	r.redis.AddHook(deafness{deaf: deaf})
	r.budget = r.replica(t, 0, 4, false)
	first := r.spend(t, r.budget)
	r.budget.Refund(t.Context(), first) // from here on the server knows the script
	for range 3 {
		require.False(t, r.spend(t, r.budget).QuotaExceeded)
	}
	last := r.spend(t, r.budget)
	require.True(t, r.spend(t, r.budget).QuotaExceeded)

	deaf.Store(true)
	r.budget.Refund(t.Context(), last)
	require.False(t, deaf.Load(), "the answer was lost")
	require.False(t, r.spend(t, r.budget).QuotaExceeded)
	require.True(t, r.spend(t, r.budget).QuotaExceeded)
}
