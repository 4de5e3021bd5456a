// Package guard is the one way a bearer token is admitted to a route: verified, not revoked, within its rate limit, and
// allowed by the policy. Every service uses it on its public routes and none does any of that itself. It must not know any
// resource: handlers tell it what a request is about.
package guard

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/authn"
	"github.com/sentryagent/agentidp/pkg/authz"
	"github.com/sentryagent/agentidp/pkg/httpx"
	"github.com/sentryagent/agentidp/pkg/ratelimit"
	"github.com/sentryagent/agentidp/pkg/redisx"
	"github.com/sentryagent/agentidp/pkg/revocation"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/pkg/tokenapi"
)

// Config is what a service that admits bearer tokens is told.
type Config struct {
	// Issuer is the iss of the tokens and, as the resource server is the issuer's own, also their aud.
	Issuer             string `env:"ISSUER" required:"true" desc:"Issuer URL, iss and aud of access tokens; without a trailing slash. If it has a path, the endpoints of OAuth are below it."`
	RateLimitPerMinute int    `env:"RATE_LIMIT_PER_MINUTE" default:"100" desc:"Requests per minute and client; 0 for no limit."`
	Policy             authz.Config
}

// Validate names every value that cannot be used.
func (c Config) Validate() error {
	var errs []error
	issuer, err := url.Parse(c.Issuer)
	switch {
	case c.Issuer == "": // named as missing already
	case err != nil, issuer.Host == "", issuer.Scheme != "http" && issuer.Scheme != "https":
		errs = append(errs, errors.New("ISSUER must be an http or https URL"))
	case issuer.RawQuery != "", issuer.ForceQuery, strings.Contains(c.Issuer, "#"), issuer.User != nil:
		errs = append(errs, errors.New("ISSUER must have no query, fragment or user (RFC 8414 §2)"))
	case issuer.Path != "" && issuer.Path[len(issuer.Path)-1] == '/':
		errs = append(errs, errors.New("ISSUER must not end with a slash"))
	case !plainPath(issuer.EscapedPath()):
		errs = append(errs, errors.New("ISSUER must have a path of letters, digits, '-', '.', '_' and '~' between slashes, if any"))
	}
	if c.RateLimitPerMinute < 0 || c.RateLimitPerMinute > ratelimit.MaxPerMinute {
		errs = append(errs, fmt.Errorf("RATE_LIMIT_PER_MINUTE must be from 0 to %d", ratelimit.MaxPerMinute))
	}
	return errors.Join(errs...)
}

// plainPath tells whether a path is empty or has one spelling only: of segments that are neither empty nor dots, in the
// unreserved characters of RFC 3986 §2.3. Clients compare issuers byte by byte, and ask for what they make of them.
func plainPath(path string) bool {
	if path == "" {
		return true
	}
	for segment := range strings.SplitSeq(path[1:], "/") {
		if segment == "" || strings.Trim(segment, ".") == "" || strings.Trim(segment, unreserved) != "" {
			return false
		}
	}
	return true
}

const unreserved = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"

// Options are what a guard is made of; every field is required.
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
	opt      Options
	entrance *entrance
	keys     *authn.RemoteKeys // nil when New was given a verifier with keys of its own
}

// New gives a guard of these parts.
func New(opt Options) *Guard {
	return &Guard{opt: opt, entrance: newEntrance(opt)}
}

// NewRemote gives the guard of a service that is not the token service: signing keys and the truth about revocations come
// from the token service. Its Run must run, and its Ready be part of the service's. A policy that is broken is an error.
func NewRemote(ctx context.Context, cfg Config, tokens *tokenapi.Client, rdb *redisx.Client, tel *telemetry.Telemetry) (*Guard, error) {
	authorizer, err := authz.New(ctx, cfg.Policy, tel.Log)
	if err != nil {
		return nil, err
	}
	keys := authn.NewRemoteKeys(tokens.JWKS, time.Now, tel.Log)
	if err := tel.Metrics.Registry.Register(fetchedMetric(keys)); err != nil {
		return nil, fmt.Errorf("register the metric of the signing keys: %w", err)
	}
	g := New(Options{
		Verifier:    authn.NewVerifier(authn.VerifierConfig{Issuer: cfg.Issuer, Audience: cfg.Issuer, Keys: keys, Clock: time.Now}),
		Redis:       rdb,
		Limiter:     ratelimit.New(rdb, tel),
		Revocations: revocation.NewChecker(rdb, tokens.Revoked),
		Authorizer:  authorizer,
		Config:      cfg,
		Telemetry:   tel,
		Clock:       time.Now,
	})
	g.keys = keys
	return g, nil
}

// fetchedMetric tells how old the keys are that tokens are verified with.
func fetchedMetric(keys *authn.RemoteKeys) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "agentidp_signing_keys_fetched_timestamp_seconds",
		Help: "Unix time at which the signing keys were last fetched from the token service, 0 before the first time.",
	}, func() float64 {
		fetched := keys.Fetched()
		if fetched.IsZero() {
			return 0
		}
		return float64(fetched.UnixMilli()) / 1000
	})
}

// Run keeps signing keys (NewRemote) and policy fresh until ctx is done; it returns nil.
func (g *Guard) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return g.opt.Authorizer.Run(ctx) })
	if g.keys != nil {
		group.Go(func() error { return g.keys.Run(ctx) })
	}
	return group.Wait()
}

// Ready is nil once tokens can be verified: for a guard of NewRemote, once signing keys are known.
func (g *Guard) Ready(ctx context.Context) error {
	if g.keys == nil {
		return nil
	}
	return g.keys.Ready(ctx)
}

// Authenticate admits requests with a good bearer token, and answers all others: 401 with a challenge (RFC 6750 §3), 429,
// or 503 when it could not be found out. It sets X-RateLimit-* on every answer while the limit is on, charges the client, and
// keeps the principal for PrincipalOf. It makes one round trip to Redis.
//
// A token that was revoked is refused as such also when its client is over the limit, and charges nothing: who holds a stolen
// one must not use up its client's requests. While Redis is away the limit is open, but never the check for revocation.
func (g *Guard) Authenticate() gin.HandlerFunc {
	return func(c *gin.Context) {
		principal, err := g.Verify(c)
		if err == nil {
			_, err = g.Enter(c, principal)
		}
		if err != nil {
			httpx.WriteError(c, err)
			return
		}
		c.Next()
	}
}

// Verify is the first half of Authenticate, for routes that also take other credentials or have other tokens to look up: it
// gives whose token it is, or the error to answer with. Nobody is admitted by it, and nothing is charged.
func (g *Guard) Verify(c *gin.Context) (authn.Principal, error) {
	raw, err := authn.BearerToken(c.Request.Header)
	if err == nil {
		var principal authn.Principal
		if principal, err = g.opt.Verifier.Verify(c.Request.Context(), raw); err == nil {
			return principal, nil
		}
	}
	ratelimit.WriteHeaders(c.Writer.Header(), g.untouched())
	return authn.Principal{}, err
}

// Enter is the second half of Authenticate. In the same round trip it looks up other tokens, those that the request is about, and
// tells of each what Redis says, for Checker.Resolve.
func (g *Guard) Enter(c *gin.Context, principal authn.Principal, others ...revocation.Query) ([]revocation.Verdict, error) {
	window, verdicts, err := g.entrance.admit(c.Request.Context(), principal, others)
	if err != nil {
		window = g.untouched()
	}
	ratelimit.WriteHeaders(c.Writer.Header(), window)
	if err = cmp.Or(err, window.Err()); err != nil {
		return nil, err
	}
	c.Set(principalKey{}, principal)
	return verdicts, nil
}

// untouched is the window to tell of where nothing was charged.
func (g *Guard) untouched() ratelimit.Window {
	return ratelimit.Untouched(g.opt.Config.RateLimitPerMinute, g.opt.Clock())
}

// Authorize asks the policy about the authenticated request and res, which is nil when it is about nothing in particular.
// The error is FORBIDDEN with details.reason, and with the challenge insufficient_scope where a scope lacks.
func (g *Guard) Authorize(c *gin.Context, res *authz.Resource) error {
	p := PrincipalOf(c)
	return g.decide(c, authz.Input{
		Scopes:         p.Scopes,
		Subject:        p.AgentID.String(),
		Owner:          p.Owner,
		Authentication: authz.AuthenticationBearer,
		Resource:       res,
	})
}

// AuthorizeClient is Authorize for a request that came with client authentication instead of a bearer token.
func (g *Guard) AuthorizeClient(c *gin.Context, clientID string, res *authz.Resource) error {
	return g.decide(c, authz.Input{
		Subject:        clientID,
		Authentication: authz.AuthenticationClient,
		Resource:       res,
	})
}

func (g *Guard) decide(c *gin.Context, in authz.Input) error {
	in.Method, in.Path = c.Request.Method, c.Request.URL.Path
	decision, err := g.opt.Authorizer.Decide(c.Request.Context(), in)
	if err != nil {
		return apperr.From(err)
	}
	if decision.Allow {
		return nil
	}
	denied := apperr.New(apperr.Forbidden, "The policy does not allow this request.").
		With(map[string]any{"reason": decision.Reason})
	if isScope(decision.Scope) {
		denied = denied.WithChallenge(`Bearer realm="agentidp", error="insufficient_scope", scope="` + decision.Scope + `"`)
	}
	return denied
}

// isScope tells whether s is a scope value of RFC 6749 §3.3. The policy can be replaced, and s goes into a header in quotes.
func isScope(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' || s[i] == '"' || s[i] == '\\' {
			return false
		}
	}
	return s != ""
}

type principalKey struct{}

// PrincipalOf gives whom Authenticate or Enter admitted; the zero Principal, which has no scope, on a route without them.
func PrincipalOf(c *gin.Context) authn.Principal {
	p, _ := c.Get(principalKey{})
	principal, _ := p.(authn.Principal)
	return principal
}

// Origin tells an audit event who asked, from where and under which request id. The actor is nil without a principal.
func Origin(c *gin.Context) auditevent.Origin {
	origin := auditevent.Origin{
		IPAddress: c.RemoteIP(),
		UserAgent: c.Request.UserAgent(),
		RequestID: telemetry.RequestID(c.Request.Context()),
	}
	if p := PrincipalOf(c); p.TokenID != "" {
		origin.ActorID = &p.AgentID
	}
	return origin
}
