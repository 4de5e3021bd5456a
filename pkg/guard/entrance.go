package guard

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/sentryagent/agentidp/pkg/authn"
	"github.com/sentryagent/agentidp/pkg/ratelimit"
	"github.com/sentryagent/agentidp/pkg/redisx"
	"github.com/sentryagent/agentidp/pkg/revocation"
	"github.com/sentryagent/agentidp/pkg/telemetry"
)

// entrance asks Redis whether a verified token is live and, if it is, charges its client's rate window, and about other tokens
// besides, in one round trip.
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

// KEYS and ARGV: the rate window and its limit; then those of the question, whose first token is the one to admit.
const admitLua = `
local found = verdicts(2, 2)
if found[1] ~= 1 then
  return {found, {}}
end
return {found, take(KEYS[1], tonumber(ARGV[1]))}
`

// admit answers the window after the request, and what Redis says of the other tokens. The error says that the token was
// revoked, or that it is not known.
func (e *entrance) admit(ctx context.Context, p authn.Principal, others []revocation.Query) (ratelimit.Window, []revocation.Verdict, error) {
	query := revocation.Query{TokenID: p.TokenID, AgentID: p.AgentID, IssuedAt: p.IssuedAt}
	tokens := append([]revocation.Query{query}, others...)
	verdicts, charged, askErr := e.ask(ctx, tokens)
	if askErr != nil {
		e.telemetry.Log.DebugContext(ctx, "revocation not found in redis", slog.Any("error", askErr))
	}
	revoked, err := e.revocations.Resolve(ctx, query, verdicts[0])
	if err := refusal(revoked, err); err != nil {
		return ratelimit.Window{}, nil, err
	}
	window, err := e.charge(ctx, p.AgentID, charged, askErr)
	return window, verdicts[1:], err
}

func refusal(revoked bool, err error) error {
	if err == nil && revoked {
		return authn.Revoked()
	}
	return err
}

// charge gives the window of a request with a live token.
func (e *entrance) charge(ctx context.Context, client uuid.UUID, charged any, askErr error) (ratelimit.Window, error) {
	if charged == nil && askErr == nil {
		return e.limiter.Take(ctx, ratelimit.ClientKey(client), e.limit) // nothing is charged before the token is known to be live
	}
	return e.limiter.Read(ctx, e.limit, charged, askErr)
}

// ask answers the verdicts and, if the window of the first token's client was charged, what Limiter.Read takes. With an error
// all verdicts are Unknown.
func (e *entrance) ask(ctx context.Context, tokens []revocation.Query) (verdicts []revocation.Verdict, charged any, err error) {
	if e.limit <= 0 {
		verdicts, err = e.revocations.Look(ctx, tokens...)
		return verdicts, nil, err
	}
	asked := e.revocations.Ask(tokens...)
	keys := append([]string{e.limiter.RedisKey(ratelimit.ClientKey(tokens[0].AgentID))}, asked.Keys...)
	args := append([]any{e.limit}, asked.Args...)
	answer, err := e.rdb.RunScript(ctx, e.script, keys, args...).Slice()
	if err != nil {
		return make([]revocation.Verdict, len(tokens)), nil, fmt.Errorf("look up revocation: %w", err)
	}
	if len(answer) != 2 {
		return make([]revocation.Verdict, len(tokens)), nil, fmt.Errorf("admission script answered %v", answer)
	}
	if found, ok := answer[0].([]any); ok && len(found) > 0 && found[0] == int64(revocation.Live) {
		charged = answer[1]
	}
	verdicts, err = e.revocations.Read(asked, answer[0])
	return verdicts, charged, err
}
