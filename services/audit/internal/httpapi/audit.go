package httpapi

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/httpx"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

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
