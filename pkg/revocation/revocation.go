// Package revocation keeps in Redis which tokens are refused before they expire, and answers whether one is. Redis is a
// cache here and Postgres (the token service's) the truth: only what a marked, fully hydrated Redis says is believed,
// everything else goes to a Fallback. This package must never answer "live" for a token it could not look up.
package revocation

import (
	"context"
	"fmt"
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

// The verdicts; Lua knows them by their numbers. Unknown is the zero value on purpose: what was not looked up is not live.
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
	script   *redis.Script
}

// NewChecker gives a checker that asks fallback where Redis does not know.
func NewChecker(rdb *redisx.Client, fallback Fallback) *Checker {
	script := Lua + "return verdict(KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2])"
	return &Checker{rdb: rdb, fallback: fallback, script: redis.NewScript(script)}
}

// Lua defines the local function verdict(revoked, mark, cutoff, whole, issued_at), for scripts that do more in the same round
// trip. It takes the Keys and the Args of a Question, writes nothing, and returns what Read takes: the number of a Verdict.
//
// A revoked token is dead whatever else Redis has lost, because nothing makes it good again. Everything else it says is
// believed only under the mark.
const Lua = `
local function verdict(revoked, mark, cutoff, whole, issued_at)
  local found = redis.call('MGET', revoked, mark)
  if found[1] then
    return 2
  end
  if found[2] ~= whole then
    return 0
  end
  local fields = redis.call('HMGET', cutoff, 'blocked', 'validAfter')
  if not fields[1] and not fields[2] then
    return 1
  end
  local after = fields[2] and tonumber(fields[2])
  if not after then
    return 0
  end
  if fields[1] ~= '0' or tonumber(issued_at) <= after then
    return 2
  end
  return 1
end
`

// Question is a query in the words of Lua.
type Question struct {
	Keys [3]string // revoked, mark, cutoff
	Args [2]any    // whole, issued_at

	runID string
}

// Ask makes the question. It holds for the server that answers now.
func (c *Checker) Ask(q Query) Question {
	runID := c.rdb.RunID()
	return Question{
		Keys:  [3]string{revokedKey(c.rdb, q.TokenID), markKey(c.rdb), cutoffKey(c.rdb, q.AgentID)},
		Args:  [2]any{markOf(runID), q.IssuedAt.UnixMilli()},
		runID: runID,
	}
}

// Read gives the verdict of what Lua answered to the question.
func (c *Checker) Read(asked Question, answer int64) Verdict {
	switch verdict := Verdict(answer); verdict {
	case Dead:
		return Dead
	case Live:
		// Read after the answer: a connection to another server process would have told its run id before it answered.
		if c.rdb.RunID() == asked.runID {
			return Live
		}
	case Unknown:
	}
	return Unknown
}

// Look gives the verdict of Redis, in one round trip. An error comes with Unknown.
func (c *Checker) Look(ctx context.Context, q Query) (Verdict, error) {
	asked := c.Ask(q)
	answer, err := c.rdb.RunScript(ctx, c.script, asked.Keys[:], asked.Args[:]...).Int64()
	if err != nil {
		return Unknown, fmt.Errorf("look up revocation: %w", err)
	}
	return c.Read(asked, answer), nil
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

// Revoked looks the token up: one Redis round trip, and the fallback if that gives no verdict.
func (c *Checker) Revoked(ctx context.Context, q Query) (bool, error) {
	v, _ := c.Look(ctx, q) // an error is Unknown, and the fallback decides
	return c.Resolve(ctx, q, v)
}
