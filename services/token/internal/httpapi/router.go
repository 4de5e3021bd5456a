package httpapi

import (
	"context"

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
	Admit(c *gin.Context) (authn.Principal, error)
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
	Introspect(ctx context.Context, token string, origin auditevent.Origin) (issue.Introspection, error)
}

// Revoker revokes tokens; *issue.Revoker is one.
type Revoker interface {
	Holder(ctx context.Context, token string) (holder authn.Principal, live bool, err error)
	Revoke(ctx context.Context, holder authn.Principal, origin auditevent.Origin) error
}

// Published has the public keys; *keys.Ring is one.
type Published interface{ JWKS() (keys.Document, error) }

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
	public := server.Public()
	public.POST("/api/v1/token", a.token)
	public.POST("/api/v1/token/introspect", a.introspect)
	public.POST("/api/v1/token/revoke", a.revoke)
	public.GET(pathAuthorize, a.authorize)
	public.GET("/.well-known/oauth-authorization-server", a.oauthServer)
	public.GET("/.well-known/openid-configuration", a.openIDConfiguration)
	public.GET(pathJWKS, httpx.Handle(a.publicJWKS))

	internal := server.Internal()
	internal.GET(tokenapi.JWKSPath, httpx.Handle(a.internalJWKS))
	internal.POST(tokenapi.CheckRevocationsPath, httpx.Handle(a.checkRevocation))
	return nil
}
