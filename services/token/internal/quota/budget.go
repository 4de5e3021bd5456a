package quota

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/singleflight"

	"github.com/sentryagent/agentidp/pkg/ratelimit"
	"github.com/sentryagent/agentidp/pkg/redisx"
	"github.com/sentryagent/agentidp/services/token/internal/issue"
)

const (
	// writeEvery is how far Postgres is behind Redis at most while both answer.
	writeEvery = 100 * time.Millisecond
	// settle is long enough for every replica to have written what it saw, also one that stalls now and then.
	settle = 10 * writeEvery
	// settlePoll is how often it is looked whether another replica was faster.
	settlePoll = 25 * time.Millisecond
	// writeChunk bounds one statement.
	writeChunk = 1000
	// afterwards bounds what goes on without the caller.
	afterwards = 3 * time.Second
	// attempts bounds how often one request is tried at a Redis that restarts or loses the counter.
	attempts = 5
)

// Count is how many tokens an agent got in a month.
type Count struct {
	AgentID uuid.UUID
	Month   time.Time // the first of the month, UTC
	Used    int64
}

func (c Count) account() account { return account{agentID: c.AgentID, month: c.Month.UTC()} }

// Store keeps the counts for good.
type Store interface {
	// Open makes the count of the month, 0; first is false if it was there.
	Open(ctx context.Context, agentID uuid.UUID, month time.Time) (first bool, err error)
	// Used reads the count.
	Used(ctx context.Context, agentID uuid.UUID, month time.Time) (int64, error)
	// Raise makes each count at least what was seen, and answers what they are now.
	Raise(ctx context.Context, seen []Count) ([]Count, error)
	// Take counts one more, from at least seen on, unless that goes past the limit.
	Take(ctx context.Context, seen Count, limit int64) (taken bool, err error)
	// GiveBack counts one less.
	GiveBack(ctx context.Context, agentID uuid.UUID, month time.Time) error
}

// Config is what a Budget needs. A limit of 0 is none.
type Config struct {
	Redis          *redisx.Client
	Limiter        *ratelimit.Limiter
	Store          Store
	Clock          func() time.Time
	Log            *slog.Logger
	RatePerMinute  int
	TokensPerMonth int64
}

// Budget charges clients. It is safe for concurrent use.
type Budget struct {
	Config

	spend, raise, refund *redis.Script
	ledger               *ledger
	loads                singleflight.Group
	writing              sync.Mutex
}

var _ issue.Budget = (*Budget)(nil)

// New makes a Budget; Run writes behind.
func New(cfg Config) *Budget {
	return &Budget{
		Config: cfg,
		spend:  redis.NewScript(ratelimit.Lua + spendLua),
		raise:  redis.NewScript(raiseLua),
		refund: redis.NewScript(refundLua),
		ledger: newLedger(),
	}
}

// What spendLua answers first.
const (
	spendRefused = iota // by the rate window
	spendTaken
	spendExceeded // the quota
	spendCold     // the counter is missing; nothing was charged
)

// KEYS: rate window, counter. ARGV: rate limit, quota.
const spendLua = `
local rate, quota = tonumber(ARGV[1]), tonumber(ARGV[2])
local used = redis.call('GET', KEYS[2])
if not used then
  return {3, 0, {}}
end
used = tonumber(used)
local window = {}
if rate > 0 then
  window = take(KEYS[1], rate)
  if window[1] == 0 then
    return {0, used, window}
  end
end
if used >= quota then
  return {2, used, window}
end
return {1, redis.call('INCR', KEYS[2]), window}
`

// KEYS: counter. ARGV: the count it is to have at least.
const raiseLua = `
local used = redis.call('GET', KEYS[1])
if used and tonumber(used) < tonumber(ARGV[1]) then
  redis.call('SET', KEYS[1], ARGV[1], 'KEEPTTL')
end
return 1
`

// KEYS: counter, the name of this refund. The client sends a command again whose answer
// was lost, so what was done is remembered for longer than it tries.
const refundLua = `
if not redis.call('SET', KEYS[2], 1, 'NX', 'PX', 10000) then
  return -1
end
local used = redis.call('GET', KEYS[1])
if used and tonumber(used) > 0 then
  return redis.call('DECR', KEYS[1])
end
return -1
`

// Untouched is the window of a client that is not known.
func (b *Budget) Untouched() ratelimit.Window { return ratelimit.Untouched(b.RatePerMinute, b.Clock()) }

// MonthlyLimit is the quota, 0 for none.
func (b *Budget) MonthlyLimit() int64 { return b.TokensPerMonth }

// Request charges the rate window alone.
func (b *Budget) Request(ctx context.Context, clientID uuid.UUID) (ratelimit.Window, error) {
	return b.Limiter.Take(ctx, ratelimit.ClientKey(clientID), b.RatePerMinute)
}

// Look answers what Request would, and charges nothing.
func (b *Budget) Look(ctx context.Context, clientID uuid.UUID) (ratelimit.Window, error) {
	return b.Limiter.Look(ctx, ratelimit.ClientKey(clientID), b.RatePerMinute)
}

// Spend charges the rate window and the quota.
func (b *Budget) Spend(ctx context.Context, clientID uuid.UUID) (issue.Charge, error) {
	if b.TokensPerMonth == 0 {
		window, err := b.Request(ctx, clientID)
		return issue.Charge{Window: window}, err
	}
	acc := account{agentID: clientID, month: monthOf(b.Clock())}
	if entered, err := b.enter(ctx, acc); errors.Is(err, errRedis) {
		return b.withoutRedis(ctx, acc, err)
	} else if err != nil {
		return issue.Charge{}, err
	} else if !entered {
		return b.besideRedis(ctx, acc)
	}
	spent, err := b.inRedis(ctx, acc)
	counts := b.ledger.leave(acc, spent.count())
	switch {
	case errors.Is(err, errNotKept):
		return b.besideRedis(ctx, acc)
	case errors.Is(err, errRedis):
		return b.withoutRedis(ctx, acc, err)
	case err != nil:
		return issue.Charge{}, err
	}
	window, err := b.Limiter.Read(ctx, b.RatePerMinute, spent.window, nil)
	if err != nil {
		return issue.Charge{}, err
	}
	if spent.status == spendTaken && !counts {
		return b.inPostgres(ctx, acc, window)
	}
	return acc.charge(window, spent.status == spendExceeded), nil
}

// enter begins a charge to Redis, if its counter can be used. Who entered has to leave.
func (b *Budget) enter(ctx context.Context, acc account) (bool, error) {
	entered, raisable := b.ledger.enter(acc)
	if entered || !raisable {
		return entered, nil
	}
	level, err := b.catchUp(ctx, acc)
	if err != nil || !level {
		return false, err
	}
	entered, _ = b.ledger.enter(acc)
	return entered, nil
}

// spent is what spendLua answered.
type spent struct {
	status, used int64
	window       any
}

// count is the count with this token, 0 if none was taken.
func (s spent) count() int64 {
	if s.status != spendTaken {
		return 0
	}
	return s.used
}

// inRedis charges the rate window and the quota in one round trip. The errors are
// errRedis and errNotKept, and those of the store.
func (b *Budget) inRedis(ctx context.Context, acc account) (spent, error) {
	for range attempts {
		run := b.Redis.RunID()
		counter := b.counter(acc, run)
		answer, err := b.spend.Run(ctx, b.Redis, []string{
			b.Limiter.RedisKey(ratelimit.ClientKey(acc.agentID)), counter,
		}, b.RatePerMinute, b.TokensPerMonth).Slice()
		if err != nil {
			return spent{}, fmt.Errorf("%w: %w", errRedis, err)
		}
		if b.Redis.RunID() != run {
			// Another server answered, perhaps from a counter that it kept of an earlier life.
			continue
		}
		s, err := readSpend(answer)
		if err != nil || s.status != spendCold {
			return s, err
		}
		if err := b.load(ctx, acc, counter); err != nil {
			return spent{}, err
		}
	}
	return spent{}, errNotKept
}

var (
	errRedis   = errors.New("redis does not answer")
	errNotKept = errors.New("redis does not keep the counter")
)

func readSpend(answer []any) (spent, error) {
	if len(answer) == 3 {
		status, known := answer[0].(int64)
		used, counted := answer[1].(int64)
		if known && counted {
			return spent{status, used, answer[2]}, nil
		}
	}
	return spent{}, fmt.Errorf("quota script answered %v", answer)
}

// besideRedis charges the rate window in Redis and counts the token in Postgres,
// for an account whose counter in Redis cannot be used.
func (b *Budget) besideRedis(ctx context.Context, acc account) (issue.Charge, error) {
	window, err := b.Request(ctx, acc.agentID)
	if err != nil {
		return issue.Charge{}, err
	}
	if !window.Allowed {
		return acc.charge(window, false), nil
	}
	return b.inPostgres(ctx, acc, window)
}

// withoutRedis leaves the rate window open and counts the token in Postgres.
func (b *Budget) withoutRedis(ctx context.Context, acc account, cause error) (issue.Charge, error) {
	if ctx.Err() != nil {
		return issue.Charge{}, ctx.Err()
	}
	window, err := b.Limiter.Read(ctx, b.RatePerMinute, nil, cause)
	if err != nil {
		return issue.Charge{}, err
	}
	return b.inPostgres(ctx, acc, window)
}

func (b *Budget) inPostgres(ctx context.Context, acc account, window ratelimit.Window) (issue.Charge, error) {
	seen := b.ledger.charge(acc)
	defer b.ledger.charged(acc)
	taken, err := b.Store.Take(ctx, Count{AgentID: acc.agentID, Month: acc.month, Used: seen}, b.TokensPerMonth)
	if err != nil {
		return issue.Charge{}, err
	}
	charge := acc.charge(window, !taken)
	charge.Lasting = taken
	return charge, nil
}

// load puts a missing counter into Redis, once for all who miss it at the same time.
func (b *Budget) load(ctx context.Context, acc account, counter string) error {
	result := b.loads.DoChan(counter, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterwards)
		defer cancel()
		return nil, b.loadOnce(ctx, acc, counter)
	})
	select {
	case <-ctx.Done():
		return ctx.Err()
	case answer := <-result:
		return answer.Err
	}
}

func (b *Budget) loadOnce(ctx context.Context, acc account, counter string) error {
	first, err := b.Store.Open(ctx, acc.agentID, acc.month)
	if err != nil {
		return err
	}
	if !first {
		there, err := b.settled(ctx, counter)
		if there || err != nil {
			return err
		}
		if err := b.write(ctx); err != nil {
			return err
		}
	}
	used, err := b.Store.Used(ctx, acc.agentID, acc.month)
	if err != nil {
		return err
	}
	// A day longer than the month, for clocks that differ.
	lifetime := acc.month.AddDate(0, 1, 1).Sub(b.Clock())
	if err := b.Redis.SetNX(ctx, counter, used, lifetime).Err(); err != nil {
		return fmt.Errorf("%w: %w", errRedis, err)
	}
	return nil
}

// settled waits until every replica has written what it saw, or another one has
// loaded the counter.
func (b *Budget) settled(ctx context.Context, counter string) (there bool, err error) {
	enough := time.After(settle)
	poll := time.NewTicker(settlePoll)
	defer poll.Stop()
	for {
		n, err := b.Redis.Exists(ctx, counter).Result()
		if err != nil {
			return false, fmt.Errorf("%w: %w", errRedis, err)
		}
		if n == 1 {
			return true, nil
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-enough:
			return false, nil
		case <-poll.C:
		}
	}
}

// catchUp raises the counter in Redis to what was charged in Postgres. level is
// whether it has that count now: not if Postgres was charged again meanwhile.
func (b *Budget) catchUp(ctx context.Context, acc account) (level bool, err error) {
	generation := b.ledger.catching(acc)
	used, err := b.Store.Used(ctx, acc.agentID, acc.month)
	if err != nil {
		return false, err
	}
	for range attempts {
		run := b.Redis.RunID()
		if err := b.raise.Run(ctx, b.Redis, []string{b.counter(acc, run)}, used).Err(); err != nil {
			return false, fmt.Errorf("%w: %w", errRedis, err)
		}
		if b.Redis.RunID() == run {
			return b.ledger.raised(acc, generation), nil
		}
	}
	return false, fmt.Errorf("%w: it restarts again and again", errRedis)
}

// Refund gives a token back where it was counted: the other place follows by itself
// or may stay one too high. It does its best: where that place is away a token may
// stay counted that nobody got, which refuses one too early and never one too late.
func (b *Budget) Refund(ctx context.Context, charge issue.Charge) {
	if b.TokensPerMonth == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, afterwards)
	defer cancel()
	acc := account{agentID: charge.ClientID, month: charge.Month}
	if err := b.giveBack(ctx, acc, charge.Lasting); err != nil {
		b.Log.WarnContext(ctx, "a token that was not issued may stay counted",
			slog.String("client_id", acc.agentID.String()), slog.Any("error", err))
	}
}

func (b *Budget) giveBack(ctx context.Context, acc account, lasting bool) error {
	if lasting {
		return b.Store.GiveBack(ctx, acc.agentID, acc.month)
	}
	// What was seen is not lowered: another token may have been counted up to it again.
	return b.refund.Run(ctx, b.Redis, []string{
		b.counter(acc, b.Redis.RunID()), b.Redis.Key("quota", "refund", uuid.NewString()),
	}).Err()
}

// counter is the key of the counter in the life of Redis with that run id. What
// Redis kept of an earlier life may be older than what it had answered, so nobody
// finds it: the counter is missing then, and is loaded.
func (b *Budget) counter(acc account, run string) string {
	return b.Redis.Key("quota", acc.agentID.String(), acc.month.Format("2006-01"), run)
}

func monthOf(now time.Time) time.Time {
	now = now.UTC()
	return time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC)
}
