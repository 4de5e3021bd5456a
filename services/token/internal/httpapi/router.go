package httpapi

import (
	"context"
	"fmt"
	"net/url"
	"strings"

	"github.com/gin-gonic/gin"

	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/authn"
	"github.com/sentryagent/agentidp/pkg/authz"
	"github.com/sentryagent/agentidp/pkg/httpx"
	"github.com/sentryagent/agentidp/pkg/ratelimit"
	"github.com/sentryagent/agentidp/pkg/revocation"
	"github.com/sentryagent/agentidp/pkg/tokenapi"
	"github.com/sentryagent/agentidp/services/token/internal/issue"
	"github.com/sentryagent/agentidp/services/token/internal/keys"
)

// Guard admits bearer tokens and asks the policy; *guard.Guard is one.
type Guard interface {
	Verify(c *gin.Context) (authn.Principal, error)
	Enter(c *gin.Context, principal authn.Principal, others ...revocation.Query) ([]revocation.Verdict, error)
	Authorize(c *gin.Context, resource *authz.Resource) error
	AuthorizeClient(c *gin.Context, clientID string, resource *authz.Resource) error
}

// Issuer issues tokens; *issue.Issuer is one.
type Issuer interface {
	Issue(ctx context.Context, request issue.Request) (issue.Token, ratelimit.Window, error)
	Refused(err error)
}

// Clients authenticates clients; *issue.Authenticator is one.
type Clients interface {
	Authenticate(ctx context.Context, credentials issue.Credentials, origin auditevent.Origin) (issue.Agent, error)
	Active(ctx context.Context, agent issue.Agent, origin auditevent.Origin) error
}

// Introspector says whether tokens are live; *issue.Introspector is one.
type Introspector interface {
	Inquire(ctx context.Context, token string) (issue.Inquiry, error)
	Introspect(ctx context.Context, asked issue.Inquiry, verdicts []revocation.Verdict, origin auditevent.Origin) (issue.Introspection, error)
}

// Revoker revokes tokens; *issue.Revoker is one.
type Revoker interface {
	Holder(ctx context.Context, token string) (holder authn.Principal, revocable bool, err error)
	Revoke(ctx context.Context, holder authn.Principal, origin auditevent.Origin) error
}

// Published has the public keys; *keys.Ring is one.
type Published interface {
	// JWKS answers what this replica knows, however old that is.
	JWKS() (keys.Document, error)
	// CurrentJWKS answers what is stored now, or apperr.ServiceUnavailable.
	CurrentJWKS(ctx context.Context) (keys.Document, error)
}

// Config is what the routes need.
type Config struct {
	Issuer       Issuer
	Clients      Clients
	Budget       issue.Budget
	Introspector Introspector
	Revoker      Revoker
	Guard        Guard
	Keys         Published
	Truth        revocation.Fallback
	// URL is the issuer, from which the endpoints of the metadata derive.
	URL string
}

type api struct {
	Config

	oauthMetadata, openIDMetadata []byte
}

// Register puts the routes of this service on the server.
func Register(server *httpx.Server, cfg Config) error {
	a := &api{Config: cfg}
	if err := a.writeMetadata(); err != nil {
		return err
	}
	issuer, err := url.Parse(cfg.URL)
	if err != nil {
		return fmt.Errorf("issuer: %w", err)
	}
	public := server.Public()
	a.registerPublic(public)
	if path := issuer.Path; path != "" {
		// The endpoints of an issuer with a path are below it, also where the ingress does not take it away.
		a.registerPublic(public.Group(path, withoutPrefix(path)))
		// A client puts the well-known part between host and path (RFC 8414 §3, §5).
		document(public, pathOAuthMetadata+path, a.oauthServer)
		document(public, pathOpenIDMetadata+path, a.openIDConfiguration)
	}

	internal := server.Internal()
	internal.GET(tokenapi.JWKSPath, httpx.Handle(a.internalJWKS))
	internal.POST(tokenapi.CheckRevocationsPath, httpx.Handle(a.checkRevocation))
	return nil
}

func (a *api) registerPublic(routes gin.IRoutes) {
	routes.POST("/api/v1/token", a.token)
	routes.POST("/api/v1/token/introspect", a.introspect)
	routes.POST("/api/v1/token/revoke", a.revoke)
	routes.GET(pathAuthorize, a.authorize)
	document(routes, pathOAuthMetadata, a.oauthServer)
	document(routes, pathOpenIDMetadata, a.openIDConfiguration)
	document(routes, pathJWKS, httpx.Handle(a.publicJWKS))
}

// document routes GET and HEAD (RFC 9110 §9.1).
func document(routes gin.IRoutes, path string, handler gin.HandlerFunc) {
	routes.GET(path, handler)
	routes.HEAD(path, handler)
}

// withoutPrefix shows handlers, and the policy, the path that the route has without the issuer's.
func withoutPrefix(prefix string) gin.HandlerFunc {
	return func(c *gin.Context) {
		short := *c.Request.URL
		short.Path, short.RawPath = strings.TrimPrefix(short.Path, prefix), ""
		c.Request.URL = &short
	}
}
