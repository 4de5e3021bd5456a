// Package httpapi is the HTTP face of the credentials service: the four public
// routes and the internal API. It reads requests, asks the guard and the domain,
// and writes answers; it decides nothing itself. A secret passes through it only
// into the one response that carries it, and is never logged.
package httpapi

import (
	"context"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/authz"
	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/credentialsapi"
	"github.com/sentryagent/agentidp/pkg/httpx"
	"github.com/sentryagent/agentidp/pkg/paging"
	"github.com/sentryagent/agentidp/services/credentials/internal/secret"
)

// Credentials is what the routes need of the domain; *secret.Service is one.
type Credentials interface {
	Create(ctx context.Context, agentID uuid.UUID, expiresAt *time.Time, origin auditevent.Origin) (secret.Issued, error)
	CreateForOperator(ctx context.Context, wanted secret.ForOperator, origin auditevent.Origin) (secret.Issued, bool, error)
	List(ctx context.Context, agentID uuid.UUID, status *secret.Status, page paging.Page) (paging.Listing[secret.Credential], error)
	Rotate(ctx context.Context, agentID, credentialID uuid.UUID, grace time.Duration, origin auditevent.Origin) (secret.Issued, error)
	Revoke(ctx context.Context, agentID, credentialID uuid.UUID, origin auditevent.Origin) error
	Verify(ctx context.Context, clientID uuid.UUID, presented config.Secret) (secret.Verdict, error)
	Screen(ctx context.Context, presented []secret.Presented) ([]bool, error)
	RecordUses(ctx context.Context, uses []secret.Use) error
}

// Guard admits bearer tokens and asks the policy; *guard.Guard is one.
type Guard interface {
	Authenticate() gin.HandlerFunc
	Authorize(c *gin.Context, res *authz.Resource) error
}

// API has the handlers of all routes.
type API struct {
	credentials Credentials
	guard       Guard
}

// New makes the API.
func New(credentials Credentials, guard Guard) *API {
	return &API{credentials: credentials, guard: guard}
}

// Public adds the routes that the ingress leads to.
func (a *API) Public(engine *gin.Engine) {
	g := engine.Group("/api/v1/agents/:agentId/credentials", a.guard.Authenticate())
	g.POST("", httpx.Handle(a.create))
	g.GET("", httpx.Handle(a.list))
	g.POST("/:credentialId/rotate", httpx.Handle(a.rotate))
	g.DELETE("/:credentialId", httpx.Handle(a.revoke))
}

// Internal adds the routes for the other services; the group stands behind the
// internal token.
func (a *API) Internal(g *gin.RouterGroup) {
	g.POST(credentialsapi.VerifyPath, httpx.Handle(a.verify))
	g.POST(credentialsapi.ScreenPath, httpx.Handle(a.screen))
	g.POST(credentialsapi.UsagePath, httpx.Handle(a.recordUses))
	g.POST(credentialsapi.OperatorCredentialPath, httpx.Handle(a.createForOperator))
	g.POST(credentialsapi.OperatorRevocationPath, httpx.Handle(a.revokeForOperator))
}
