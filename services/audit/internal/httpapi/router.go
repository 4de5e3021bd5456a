// Package httpapi is the public HTTP face of the audit service: it reads the
// query, asks the trail, and writes the answer. What a caller may see is decided
// by the policy and by package trail, not here; nothing here writes.
package httpapi

import (
	"context"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/authz"
	"github.com/sentryagent/agentidp/pkg/httpx"
	"github.com/sentryagent/agentidp/pkg/paging"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

// Guard admits requests; *guard.Guard is one.
type Guard interface {
	Authenticate() gin.HandlerFunc
	Authorize(c *gin.Context, resource *authz.Resource) error
}

// Reader answers questions about the trail; *trail.Reader is one.
type Reader interface {
	List(ctx context.Context, filter trail.Filter, page paging.Page) (paging.Listing[trail.Event], error)
	Get(ctx context.Context, id uuid.UUID) (trail.Event, error)
	// Narrow restricts a filter to what may be shown.
	Narrow(filter trail.Filter) (trail.Filter, error)
}

// Config is what the routes work with; every field is required.
type Config struct {
	Reader   Reader
	Log      Log
	Exporter Exporter
	Guard    Guard
}

type api struct {
	reader   Reader
	log      Log
	exporter Exporter
	guard    Guard

	exports chan struct{} // holds one for each that is under way
}

// Register puts the routes of this service on the server. Hashes are for everybody, so that
// witnesses and verifiers need no account: a leaf cannot be guessed from its hash,
// as every event has an id with 74 random bits.
func Register(server *httpx.Server, cfg Config) {
	a := &api{reader: cfg.Reader, log: cfg.Log, exporter: cfg.Exporter, guard: cfg.Guard, exports: make(chan struct{}, mostExports)}
	hashes := server.Public().Group("/api/v1/audit")
	hashes.GET("/checkpoint", httpx.Handle(a.checkpoint))
	hashes.GET("/consistency", httpx.Handle(a.consistency))
	hashes.GET("/tile/:level/*index", httpx.Handle(a.hashes))
	events := server.Public().Group("/api/v1/audit", a.guard.Authenticate())
	events.GET("", httpx.Handle(a.list))
	events.GET("/:eventId", httpx.Handle(a.get))
	events.GET("/:eventId/proof", httpx.Handle(a.prove))
	events.GET("/tile/entries/*index", httpx.Handle(a.entries))
	events.GET("/export", httpx.Handle(a.export))
}
