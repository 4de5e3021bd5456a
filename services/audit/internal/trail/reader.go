package trail

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/paging"
)

// ErrNotFound is what a Store answers for an event it does not have.
var ErrNotFound = errors.New("audit event not found")

// fromSlack is how much older than the retention window an instant given as
// fromDate may be: a client that asks for exactly the window computed its
// instant before the request travelled, perhaps by another clock. It widens the
// question only, never what is shown.
const fromSlack = 30 * time.Second

// Filter says which events are meant; a nil field does not restrict.
type Filter struct {
	AgentID *uuid.UUID
	ActorID *uuid.UUID
	Action  *string
	Outcome *string
	From    *time.Time // inclusive
	To      *time.Time // inclusive
	// FromIsDate says that From is the first moment of a day the caller named
	// as a date. Such a day is inside the window while any moment of it is.
	FromIsDate bool
}

// Reversed tells that the filter ends before it begins.
func (f Filter) Reversed() bool {
	return f.From != nil && f.To != nil && f.From.After(*f.To)
}

// ReasonReversed says so of fromDate.
const ReasonReversed = "must not be after toDate"

// Store keeps events. An event that was recorded is never changed or removed.
type Store interface {
	// List returns a page of the events that match. Their total is page.Total where
	// page.After is given, and an estimate where the filter's time cuts a day in which
	// too many match to be counted. filter.From is never nil.
	List(ctx context.Context, filter Filter, page paging.Page) (paging.Listing[Event], error)
	// Get returns one event, or ErrNotFound.
	Get(ctx context.Context, id uuid.UUID) (Event, error)
}

// Reader answers questions about the trail, within the retention window.
type Reader struct {
	store  Store
	window Window
	clock  func() time.Time
}

// NewReader returns a Reader that shows the events inside the window.
func NewReader(store Store, window Window, clock func() time.Time) *Reader {
	return &Reader{store: store, window: window, clock: clock}
}

// List returns a page of the events that match. Its errors are those of Narrow.
func (r *Reader) List(ctx context.Context, filter Filter, page paging.Page) (paging.Listing[Event], error) {
	filter, err := r.Narrow(filter)
	if err != nil {
		return paging.Listing[Event]{}, err
	}
	return r.store.List(ctx, filter, page)
}

// Narrow restricts a filter to the retention window. It answers VALIDATION_ERROR if
// the filter ends before it begins, RETENTION_WINDOW_EXCEEDED if it asks for what
// may be gone already: a shorter list would look complete and not be.
func (r *Reader) Narrow(filter Filter) (Filter, error) {
	if filter.Reversed() {
		return Filter{}, apperr.Validation(apperr.FieldError{Field: "fromDate", Reason: ReasonReversed})
	}
	since := r.window.Since(r.clock())
	if filter.From != nil && r.tooOld(filter, since) {
		return Filter{}, apperr.New(apperr.RetentionWindowExceeded, "fromDate lies before the retention window of the audit trail.").
			With(map[string]any{"retentionDays": r.window.Days()})
	}
	if filter.From == nil || filter.From.Before(since) {
		filter.From = &since
	}
	return filter, nil
}

// Get returns one event. An event outside of the retention window is answered
// like one that never was, AUDIT_EVENT_NOT_FOUND, whether it is still stored or
// not.
func (r *Reader) Get(ctx context.Context, id uuid.UUID) (Event, error) {
	event, err := r.store.Get(ctx, id)
	if errors.Is(err, ErrNotFound) || (err == nil && !r.window.Shows(event.Timestamp, r.clock())) {
		return Event{}, NotFound()
	}
	return event, err
}

// NotFound is the answer about an event that is not there, or outside of the window.
func NotFound() error {
	return apperr.New(apperr.AuditEventNotFound, "Audit event with the specified ID was not found.")
}

func (r *Reader) tooOld(filter Filter, since time.Time) bool {
	if filter.FromIsDate {
		return !filter.From.Add(day).After(since)
	}
	return filter.From.Before(since.Add(-fromSlack))
}
