// Package guard is the one way a bearer token is admitted to a route: verified, not revoked, within its rate limit, and
// allowed by the policy. Every service uses it on its public routes and none does any of that itself. It must not know any
// resource: handlers tell it what a request is about.
package guard

import (
	"context"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/authn"
	"github.com/sentryagent/agentidp/pkg/authz"
	"github.com/sentryagent/agentidp/pkg/ratelimit"
	"github.com/sentryagent/agentidp/pkg/redisx"
	"github.com/sentryagent/agentidp/pkg/revocation"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/pkg/tokenapi"
)

// Config is what a service that admits bearer tokens is told.
type Config struct {
	// Issuer is the iss of the tokens and, as the resource server is the issuer's own, also their aud.
	Issuer             string `env:"ISSUER" required:"true" desc:"issuer URL: iss and aud of access tokens"`
	RateLimitPerMinute int    `env:"RATE_LIMIT_PER_MINUTE" default:"100" desc:"requests per minute and client, 0 = no limit"`
	Policy             authz.Config
}

// Options are what a guard is made of. Clock defaults to time.Now.
type Options struct {
	Verifier    *authn.Verifier
	Redis       *redisx.Client
	Limiter     *ratelimit.Limiter
	Revocations *revocation.Checker
	Authorizer  *authz.Authorizer
	Config      Config
	Telemetry   *telemetry.Telemetry
	Clock       func() time.Time
}

// Guard admits requests. It is safe for concurrent use.
type Guard struct {
	opt  Options
	keys *authn.RemoteKeys
}

// New gives a guard of these parts.
func New(opt Options) *Guard { return &Guard{opt: opt} }

// NewRemote gives the guard of a service that is not the token service: signing keys and the truth about revocations come
// from the token service. Its Run must run, and its Ready be part of the service's.
func NewRemote(ctx context.Context, cfg Config, tokens *tokenapi.Client, rdb *redisx.Client, tel *telemetry.Telemetry) (*Guard, error) {
	return &Guard{}, nil
}

// Run keeps signing keys (NewRemote) and policy fresh until ctx is done.
func (g *Guard) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// Ready is nil once tokens can be verified: for a guard of NewRemote, once signing keys are known.
func (g *Guard) Ready(ctx context.Context) error { return nil }

// Authenticate admits requests with a good bearer token, and answers all others: 401 with a challenge (RFC 6750 §3), 429,
// or 503 when it could not be found out. It sets X-RateLimit-* on every answer while the limit is on.
func (g *Guard) Authenticate() gin.HandlerFunc { return func(c *gin.Context) {} }

// Admit does for one bearer token what Authenticate does, for routes that also take other credentials: it charges the
// client, sets the headers and gives the principal, or the error to answer with.
func (g *Guard) Admit(c *gin.Context) (authn.Principal, error) { return authn.Principal{}, nil }

// Authorize asks the policy about the authenticated request and res, which is nil when it is about nothing in particular.
// The error is FORBIDDEN with details.reason, and with the challenge insufficient_scope where a scope lacks.
func (g *Guard) Authorize(c *gin.Context, res *authz.Resource) error { return nil }

// AuthorizeClient is Authorize for a request that came with client authentication instead of a bearer token.
func (g *Guard) AuthorizeClient(c *gin.Context, clientID string, res *authz.Resource) error {
	return nil
}

// PrincipalOf gives whom Authenticate admitted; the zero Principal on a route without it.
func PrincipalOf(c *gin.Context) authn.Principal { return authn.Principal{} }

// Origin tells an audit event who asked, from where and under which request id. The actor is nil without a principal.
func Origin(c *gin.Context) auditevent.Origin { return auditevent.Origin{} }
