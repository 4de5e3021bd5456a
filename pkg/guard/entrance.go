package guard

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/sentryagent/agentidp/pkg/authn"
	"github.com/sentryagent/agentidp/pkg/ratelimit"
	"github.com/sentryagent/agentidp/pkg/redisx"
	"github.com/sentryagent/agentidp/pkg/revocation"
	"github.com/sentryagent/agentidp/pkg/telemetry"
)

// entrance asks Redis whether a verified token is live and, if it is, charges its client's rate window, in one round trip.
type entrance struct {
	rdb         *redisx.Client
	limiter     *ratelimit.Limiter
	revocations *revocation.Checker
	telemetry   *telemetry.Telemetry
	limit       int
	script      *redis.Script
}

func newEntrance(opt Options) *entrance {
	return &entrance{
		rdb: opt.Redis, limiter: opt.Limiter, revocations: opt.Revocations, telemetry: opt.Telemetry,
		limit: opt.Config.RateLimitPerMinute, script: redis.NewScript(revocation.Lua + ratelimit.Lua + admitLua),
	}
}

// KEYS and ARGV: those of the question; then the rate window and its limit.
const admitLua = `
local found = verdict(KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2])
if found ~= 1 then
  return {found, {}}
end
return {found, take(KEYS[4], tonumber(ARGV[3]))}
`

// admit answers the window after the request. The error says that the token was revoked, or that it is not known.
func (e *entrance) admit(ctx context.Context, p authn.Principal) (ratelimit.Window, error) {
	query := revocation.Query{TokenID: p.TokenID, AgentID: p.AgentID, IssuedAt: p.IssuedAt}
	if e.limit <= 0 {
		revoked, err := e.revocations.Revoked(ctx, query)
		return ratelimit.Window{Allowed: true}, refusal(revoked, err)
	}
	key := ratelimit.ClientKey(p.AgentID)
	verdict, charged, askErr := e.ask(ctx, query, key)
	if askErr != nil {
		e.telemetry.Log.DebugContext(ctx, "revocation not found in redis", "error", askErr)
	}
	revoked, err := e.revocations.Resolve(ctx, query, verdict)
	if err := refusal(revoked, err); err != nil {
		return ratelimit.Window{}, err
	}
	if charged == nil && askErr == nil {
		return e.limiter.Take(ctx, key, e.limit) // nothing is charged before the token is known to be live
	}
	return e.limiter.Read(ctx, e.limit, charged, askErr)
}

func refusal(revoked bool, err error) error {
	if err == nil && revoked {
		return authn.Revoked()
	}
	return err
}

// ask answers the verdict and, if the window was charged, what Limiter.Read takes. An error comes with Unknown.
func (e *entrance) ask(ctx context.Context, query revocation.Query, key string) (verdict revocation.Verdict, charged any, err error) {
	asked := e.revocations.Ask(query)
	keys := [...]string{asked.Keys[0], asked.Keys[1], asked.Keys[2], e.limiter.RedisKey(key)}
	answer, err := e.rdb.RunScript(ctx, e.script, keys[:], asked.Args[0], asked.Args[1], e.limit).Slice()
	if err != nil {
		return revocation.Unknown, nil, fmt.Errorf("look up revocation: %w", err)
	}
	if len(answer) == 2 {
		if found, ok := answer[0].(int64); ok {
			if revocation.Verdict(found) == revocation.Live {
				charged = answer[1]
			}
			return e.revocations.Read(asked, found), charged, nil
		}
	}
	return revocation.Unknown, nil, fmt.Errorf("admission script answered %v", answer)
}
