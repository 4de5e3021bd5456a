// Package httpapi is the public HTTP face of the audit service: it reads the
// query, asks the trail, and writes the answer. What a caller may see is decided
// by the policy and by package trail, not here; nothing here writes.
package httpapi

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/auditevent"
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
}

// Config is what the routes work with; every field is required.
type Config struct {
	Guard  Guard
	Reader Reader
	Log    Log
}

type api struct {
	guard  Guard
	reader Reader
	log    Log
}

// Register adds the public routes to router. Hashes are for everybody, so that
// witnesses and verifiers need no account: a leaf cannot be guessed from its hash,
// as every event has an id with 74 random bits.
func Register(router gin.IRouter, cfg Config) {
	a := &api{guard: cfg.Guard, reader: cfg.Reader, log: cfg.Log}
	hashes := router.Group("/api/v1/audit")
	hashes.GET("/checkpoint", httpx.Handle(a.checkpoint))
	hashes.GET("/consistency", httpx.Handle(a.consistency))
	hashes.GET("/tile/:level/*index", httpx.Handle(a.hashes))
	routes := router.Group("/api/v1/audit", cfg.Guard.Authenticate())
	routes.GET("", httpx.Handle(a.list))
	routes.GET("/:eventId", httpx.Handle(a.get))
	routes.GET("/:eventId/proof", httpx.Handle(a.prove))
	routes.GET("/tile/entries/*index", httpx.Handle(a.entries))
}

// event is an audit event as clients see it.
type event struct {
	EventID   uuid.UUID       `json:"eventId"`
	Timestamp time.Time       `json:"timestamp"`
	AgentID   *uuid.UUID      `json:"agentId"`
	ActorID   *uuid.UUID      `json:"actorId"`
	Action    string          `json:"action"`
	Outcome   string          `json:"outcome"`
	IPAddress string          `json:"ipAddress"`
	UserAgent string          `json:"userAgent"`
	Service   string          `json:"service"`
	RequestID string          `json:"requestId"`
	Metadata  json.RawMessage `json:"metadata"`
}

func view(e trail.Event) event {
	return event{
		EventID:   e.ID,
		Timestamp: e.Timestamp,
		AgentID:   e.AgentID,
		ActorID:   e.ActorID,
		Action:    e.Action,
		Outcome:   e.Outcome,
		IPAddress: e.IPAddress,
		UserAgent: e.UserAgent,
		Service:   e.Service,
		RequestID: e.RequestID,
		Metadata:  e.Metadata,
	}
}

func (a *api) list(c *gin.Context) error {
	in := httpx.NewInput(c)
	filter, page := readFilter(c, in), in.Page()
	if err := in.Admit(func() error { return a.guard.Authorize(c, nil) }); err != nil {
		return err
	}
	found, err := a.reader.List(c.Request.Context(), filter, page.Page)
	if err != nil {
		return err
	}
	httpx.JSON(c, http.StatusOK, httpx.NewList(page, found, view))
	return nil
}

func readFilter(c *gin.Context, in *httpx.Input) trail.Filter {
	actions := make([]string, 0, len(auditevent.Actions()))
	for _, action := range auditevent.Actions() {
		actions = append(actions, string(action))
	}
	filter := trail.Filter{
		AgentID:    in.UUID("agentId"),
		ActorID:    in.UUID("actorId"),
		Action:     in.Enum("action", actions...),
		Outcome:    in.Enum("outcome", trail.OutcomeSuccess, trail.OutcomeFailure),
		From:       in.Time("fromDate", false),
		To:         in.Time("toDate", true),
		FromIsDate: len(c.Query("fromDate")) == len(time.DateOnly),
	}
	if filter.Reversed() { // said here too, in one answer with all else that is wrong
		in.Fail("fromDate", trail.ReasonReversed)
	}
	return filter
}

// admit reads the event of the path, and asks the policy whether the caller may read
// the trail. Its error is also what is wrong with the request.
func (a *api) admit(c *gin.Context) (uuid.UUID, error) {
	in := httpx.NewInput(c)
	id := in.PathUUID("eventId")
	return id, in.Admit(func() error { return a.guard.Authorize(c, nil) })
}

func (a *api) get(c *gin.Context) error {
	id, err := a.admit(c)
	if err != nil {
		return err
	}
	found, err := a.reader.Get(c.Request.Context(), id)
	if err != nil {
		return err
	}
	httpx.JSON(c, http.StatusOK, view(found))
	return nil
}
