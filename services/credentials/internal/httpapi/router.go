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

// Config is what the routes work with; every field is required.
type Config struct {
	Credentials Credentials
	Guard       Guard
}

type api struct {
	credentials Credentials
	guard       Guard
}

// Register puts the routes of this service on the server.
func Register(server *httpx.Server, cfg Config) {
	a := &api{credentials: cfg.Credentials, guard: cfg.Guard}
	credentials := server.Public().Group("/api/v1/agents/:agentId/credentials", a.guard.Authenticate())
	credentials.POST("", httpx.Handle(a.create))
	credentials.GET("", httpx.Handle(a.list))
	credentials.POST("/:credentialId/rotate", httpx.Handle(a.rotate))
	credentials.DELETE("/:credentialId", httpx.Handle(a.revoke))

	internal := server.Internal()
	internal.POST(credentialsapi.VerifyPath, httpx.Handle(a.verify))
	internal.POST(credentialsapi.ScreenPath, httpx.Handle(a.screen))
	internal.POST(credentialsapi.UsagePath, httpx.Handle(a.recordUses))
	internal.POST(credentialsapi.OperatorCredentialPath, httpx.Handle(a.createForOperator))
	internal.POST(credentialsapi.OperatorRevocationPath, httpx.Handle(a.revokeForOperator))
}
