package agentidp

import (
	"context"
	"iter"
	"net/http"
	"net/url"
	"time"
)

// AuditEvent is one thing that happened.
type AuditEvent struct {
	ID        string    `json:"eventId"`
	Timestamp time.Time `json:"timestamp"`
	// AgentID is the agent it is about; nil if there is none.
	AgentID *string `json:"agentId"`
	// ActorID is the agent that did it; nil if nobody was authenticated.
	ActorID   *string        `json:"actorId"`
	Action    string         `json:"action"`  // as in token.issued
	Outcome   string         `json:"outcome"` // success or failure
	IPAddress string         `json:"ipAddress"`
	UserAgent string         `json:"userAgent"`
	Service   string         `json:"service"`
	RequestID string         `json:"requestId"`
	Metadata  map[string]any `json:"metadata"`
}

// AuditFilter says which events are meant; empty fields do not restrict.
type AuditFilter struct {
	AgentID string
	ActorID string
	Action  string
	Outcome string
	// From and To are inclusive. A From before the retention window of the
	// provider is refused with CodeRetentionWindowExceeded.
	From time.Time
	To   time.Time
}

func (f AuditFilter) query() url.Values {
	return restrict(map[string]string{
		"agentId":  f.AgentID,
		"actorId":  f.ActorID,
		"action":   f.Action,
		"outcome":  f.Outcome,
		"fromDate": instant(f.From),
		"toDate":   instant(f.To),
	})
}

func instant(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// Audit is the record of what happened. All methods need audit:read.
type Audit struct{ client *Client }

// All walks all events that match, newest first, page by page. After an error the
// walk is over.
func (a *Audit) All(ctx context.Context, filter AuditFilter) iter.Seq2[AuditEvent, error] {
	return walk(func(options ListOptions) (Page[AuditEvent], error) { return a.List(ctx, filter, options) })
}

// List returns one page of the events that match, newest first.
func (a *Audit) List(ctx context.Context, filter AuditFilter, options ListOptions) (Page[AuditEvent], error) {
	return list[AuditEvent](ctx, a.client, "/api/v1/audit", filter.query(), options)
}

// Get returns one event.
func (a *Audit) Get(ctx context.Context, eventID string) (AuditEvent, error) {
	path, err := path("/audit/{}", eventID)
	if err != nil {
		return AuditEvent{}, err
	}
	var event AuditEvent
	_, err = a.client.do(ctx, call{method: http.MethodGet, path: path, repeatable: true, out: &event})
	return event, err
}
