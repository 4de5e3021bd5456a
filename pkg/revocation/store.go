package revocation

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/sentryagent/agentidp/pkg/redisx"
)

// Margin is how long after its token expired a revocation is still taken and still counts: verifiers accept tokens for some
// seconds longer, and clocks differ. While both together are less than that, no replica ignores or forgets one of a token that
// another still takes.
const Margin = time.Hour

// ErrInterrupted says that Redis was emptied or replaced while it was being hydrated.
var ErrInterrupted = errors.New("redis changed while it was being hydrated")

const (
	// batch bounds the commands of one round trip.
	batch = 1000
	// hydrationTimeout is how long one Hydrate may take.
	hydrationTimeout = 10 * time.Minute
)

func revokedKey(rdb *redisx.Client, tokenID string) string { return rdb.Key("revoked", tokenID) }

func cutoffKey(rdb *redisx.Client, agentID uuid.UUID) string {
	return rdb.Key("cutoff", agentID.String())
}

func markKey(rdb *redisx.Client) string { return rdb.Key("revocations", "hydrated") }

// markOf is the value of the mark. It names the server process, because one that was restarted may have kept the mark and yet
// lost the last writes.
func markOf(runID string) string { return "run:" + runID }

// setCutoff lets the highest revision win: KEYS cutoff, ARGV revision blocked validAfter lifetime.
const setCutoff = `
local known = redis.call('HGET', KEYS[1], 'revision')
if known and tonumber(known) > tonumber(ARGV[1]) then
  return 0
end
redis.call('HSET', KEYS[1], 'revision', ARGV[1], 'blocked', ARGV[2], 'validAfter', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1`

// setMark sets the mark if nothing has emptied Redis since the hydration began: KEYS hydration mark, ARGV value.
const setMark = `
if redis.call('DEL', KEYS[1]) == 0 then
  return 0
end
redis.call('SET', KEYS[2], ARGV[1])
return 1`

// Store writes revocations and cutoffs to Redis, which must not evict keys (maxmemory-policy noeviction). It is safe for
// concurrent use.
//
// When a write fails it tries to take the mark away, so that Checkers ask the fallback rather than believe a Redis that lacks
// something. That can fail too (a server that refuses every write is not believed by Checkers anyway); so the caller must repeat
// the write until it succeeds, or have everything hydrated again.
type Store struct {
	rdb       *redisx.Client
	setCutoff *redis.Script
	setMark   *redis.Script
}

// NewStore gives a store on that Redis.
func NewStore(rdb *redisx.Client) *Store {
	// A revocation is to be there as soon as Redis is.
	return &Store{rdb: rdb.Insisting(), setCutoff: redis.NewScript(setCutoff), setMark: redis.NewScript(setMark)}
}

// SetCutoff makes the cutoff hold, unless one with a higher revision does.
func (s *Store) SetCutoff(ctx context.Context, c Cutoff) error {
	return s.Load(ctx, nil, []Cutoff{c})
}

// Load writes many revocations and cutoffs in few round trips. A token is refused from then until Margin after it expired, and nothing
// is kept of one after that. Repeats do no harm.
func (s *Store) Load(ctx context.Context, revoked []Revoked, cutoffs []Cutoff) error {
	for some := range slices.Chunk(revoked, batch) {
		if err := s.write(ctx, func(pipe redis.Pipeliner) {
			for _, r := range some {
				// How long and not until when: the server's clock may be wrong.
				if left := time.Until(r.ExpiresAt.Add(Margin)); left > 0 {
					pipe.Set(ctx, revokedKey(s.rdb, r.TokenID), "1", left)
				}
			}
		}); err != nil {
			return err
		}
	}
	for some := range slices.Chunk(cutoffs, batch) {
		if err := s.write(ctx, func(pipe redis.Pipeliner) {
			// In the same pipeline as its uses, so that they find it also on a server that was just restarted.
			pipe.ScriptLoad(ctx, setCutoff)
			for _, c := range some {
				blocked := "0"
				if c.Blocked {
					blocked = "1"
				}
				s.setCutoff.EvalSha(ctx, pipe, []string{cutoffKey(s.rdb, c.AgentID)},
					c.Revision, blocked, strconv.FormatInt(c.ValidAfter.UnixMilli(), 10), KeyLifetime.Milliseconds())
			}
		}); err != nil {
			return err
		}
	}
	return nil
}

// write executes what fill queues, in one round trip.
func (s *Store) write(ctx context.Context, fill func(redis.Pipeliner)) error {
	pipe := s.rdb.Pipeline()
	fill(pipe)
	if _, err := pipe.Exec(ctx); err != nil {
		return s.distrust(ctx, err)
	}
	return nil
}

// distrust takes the mark away because cause kept something from being written.
func (s *Store) distrust(ctx context.Context, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := s.rdb.Del(ctx, markKey(s.rdb)).Err(); err != nil {
		cause = errors.Join(cause, fmt.Errorf("take the mark away: %w", err))
	}
	return fmt.Errorf("write revocations: %w", cause)
}

// Hydrate runs load, which is to Load everything live, and then sets the mark that makes Checkers believe Redis. The mark
// names the server process that was there before load began; if Redis is emptied, restarted or replaced meanwhile, no mark
// is believed and Hydrate returns ErrInterrupted or the error of Redis. Several may run at once. It may take 10 minutes.
func (s *Store) Hydrate(ctx context.Context, load func(ctx context.Context) error) error {
	hydration := s.rdb.Key("revocations", "hydration", uuid.NewString())
	if err := s.rdb.Set(ctx, hydration, "1", hydrationTimeout).Err(); err != nil {
		return fmt.Errorf("begin hydration: %w", err)
	}
	runID := s.rdb.RunID()
	if err := load(ctx); err != nil {
		return err
	}
	set, err := s.setMark.Run(ctx, s.rdb, []string{hydration, markKey(s.rdb)}, markOf(runID)).Bool()
	if err != nil {
		return fmt.Errorf("end hydration: %w", err)
	}
	if !set || s.rdb.RunID() != runID {
		return ErrInterrupted
	}
	return nil
}

// Hydrated tells whether the mark is there and of the server process that answers now. The token service asks this often, and
// hydrates when it is not.
func (s *Store) Hydrated(ctx context.Context) (bool, error) {
	mark, err := s.rdb.Get(ctx, markKey(s.rdb)).Result()
	if errors.Is(err, redis.Nil) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read the mark: %w", err)
	}
	return mark == markOf(s.rdb.RunID()), nil
}
