// Package revocation keeps in Redis which tokens are refused before they expire, and answers whether one is. Redis is a
// cache here and Postgres (the token service's) the truth: only what a marked, fully hydrated Redis says is believed,
// everything else goes to a Fallback. This package must never answer "live" for a token it could not look up.
package revocation

import (
	"context"
	"errors"
	"fmt"
	"strconv"
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

// Checker answers whether a token is refused. It is safe for concurrent use.
type Checker struct {
	rdb      *redisx.Client
	fallback Fallback
}

// NewChecker gives a checker that asks fallback where Redis does not know.
func NewChecker(rdb *redisx.Client, fallback Fallback) *Checker {
	return &Checker{rdb: rdb, fallback: fallback}
}

// Queue adds the look-up, two commands, to a pipeline; the function it returns gives the verdict after the pipeline was
// executed. An error comes with Unknown.
func (c *Checker) Queue(ctx context.Context, pipe redis.Pipeliner, q Query) func() (Verdict, error) {
	marks := pipe.MGet(ctx, revokedKey(c.rdb, q.TokenID), markKey(c.rdb))
	cutoff := pipe.HMGet(ctx, cutoffKey(c.rdb, q.AgentID), fieldBlocked, fieldValidAfter)
	return func() (Verdict, error) {
		if err := errors.Join(marks.Err(), cutoff.Err()); err != nil {
			return Unknown, fmt.Errorf("look up revocation: %w", err)
		}
		if marks.Val()[0] != nil {
			// Nothing makes a revoked token good again, so this holds whatever else Redis has lost.
			return Dead, nil
		}
		// Read after the answer: a connection to another server process would have told its run id before it answered.
		if marks.Val()[1] != markOf(c.rdb.RunID()) {
			return Unknown, nil
		}
		return judge(cutoff.Val(), q)
	}
}

// judge holds a token against the fields of its agent's cutoff, which are nil when there is none.
func judge(fields []any, q Query) (Verdict, error) {
	blocked, okBlocked := fields[0].(string)
	after, okAfter := fields[1].(string)
	if !okBlocked && !okAfter {
		return Live, nil
	}
	millis, err := strconv.ParseInt(after, 10, 64)
	if err != nil {
		return Unknown, fmt.Errorf("read cutoff: %w", err)
	}
	if (Cutoff{Blocked: blocked != "0", ValidAfter: time.UnixMilli(millis)}).Refuses(q.IssuedAt) {
		return Dead, nil
	}
	return Live, nil
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
	pipe := c.rdb.Pipeline()
	verdict := c.Queue(ctx, pipe, q)
	_, _ = pipe.Exec(ctx) // each command has its own error
	v, _ := verdict()     // an error is Unknown, and the fallback decides
	return c.Resolve(ctx, q, v)
}
