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
const KeyLifetime = 24*time.Hour + Margin

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
	return &Checker{rdb: rdb, fallback: fallback, script: redis.NewScript(Lua + "return verdicts(1, 1)")}
}

// Lua defines the local function verdicts(k, a), for scripts that do more in the same round trip: it is about the tokens of a
// Question whose Keys are the last of KEYS, from KEYS[k] on, and its Args the last of ARGV, from ARGV[a] on. It changes
// nothing, and returns what Read takes: for each token the number of a Verdict.
//
// A revoked token is dead whatever else Redis has lost, because nothing makes it good again. Everything else it says is
// believed only under the mark.
//
// A server that answers but refuses writes (its disk is full, it was demoted, it lacks replicas) may lack what was revoked since,
// and keep the mark, as it takes a DEL no more than a SET. PERSIST is a write that changes nothing of a mark, which does not
// expire: there it fails, and the script with it.
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

local function verdicts(k, a)
  redis.call('PERSIST', KEYS[k])
  local found = {}
  for i = 1, #ARGV - a do
    found[i] = verdict(KEYS[k + 2 * i - 1], KEYS[k], KEYS[k + 2 * i], ARGV[a], ARGV[a + i])
  end
  return found
end
`

// Question is about tokens, in the words of Lua.
type Question struct {
	Keys []string // mark, then revoked and cutoff of each token
	Args []any    // whole, then issued_at of each token

	runID string
}

// Ask makes the question about tokens. It holds for the server that answers now.
func (c *Checker) Ask(tokens ...Query) Question {
	asked := Question{Keys: make([]string, 1, 1+2*len(tokens)), Args: make([]any, 1, 1+len(tokens)), runID: c.rdb.RunID()}
	asked.Keys[0], asked.Args[0] = markKey(c.rdb), markOf(asked.runID)
	for _, q := range tokens {
		asked.Keys = append(asked.Keys, revokedKey(c.rdb, q.TokenID), cutoffKey(c.rdb, q.AgentID))
		asked.Args = append(asked.Args, q.IssuedAt.UnixMilli())
	}
	return asked
}

// Read gives the verdict on each token of what Lua answered to the question. With an error all are Unknown.
func (c *Checker) Read(asked Question, answer any) ([]Verdict, error) {
	verdicts := make([]Verdict, len(asked.Args)-1)
	numbers, _ := answer.([]any)
	if len(numbers) != len(verdicts) {
		return verdicts, fmt.Errorf("look up revocation: %d verdicts on %d tokens", len(numbers), len(verdicts))
	}
	// Read after the answer: a connection to another server process would have told its run id before it answered.
	believed := c.rdb.RunID() == asked.runID
	for i, number := range numbers {
		switch number {
		case int64(Dead):
			verdicts[i] = Dead
		case int64(Live):
			if believed {
				verdicts[i] = Live
			}
		}
	}
	return verdicts, nil
}

// Look gives the verdict of Redis on each token, in one round trip. With an error all are Unknown.
func (c *Checker) Look(ctx context.Context, tokens ...Query) ([]Verdict, error) {
	asked := c.Ask(tokens...)
	answer, err := c.rdb.RunScript(ctx, c.script, asked.Keys, asked.Args...).Result()
	if err != nil {
		return make([]Verdict, len(tokens)), fmt.Errorf("look up revocation: %w", err)
	}
	return c.Read(asked, answer)
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
	verdicts, _ := c.Look(ctx, q) // an error is Unknown, and the fallback decides
	return c.Resolve(ctx, q, verdicts[0])
}
