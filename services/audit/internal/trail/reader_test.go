package trail_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/paging"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

// now is the afternoon of a day, so that a day and 24 hours differ.
var now = time.Date(2026, 11, 22, 15, 30, 0, 0, time.UTC)

// shelf is a trail.Store that answers what it was given and remembers the
// question.
type shelf struct {
	events []trail.Event
	err    error
	asked  trail.Filter
}

func (s *shelf) List(_ context.Context, filter trail.Filter, _ paging.Page) (paging.Listing[trail.Event], error) {
	s.asked = filter
	return paging.Listing[trail.Event]{Items: s.events}, s.err
}

func (s *shelf) Get(_ context.Context, id uuid.UUID) (trail.Event, error) {
	for _, event := range s.events {
		if event.ID == id {
			return event, nil
		}
	}
	if s.err != nil {
		return trail.Event{}, s.err
	}
	return trail.Event{}, trail.ErrNotFound
}

func reader(store trail.Store) *trail.Reader {
	return trail.NewReader(store, trail.NewWindow(90), func() time.Time { return now })
}

func ago(d time.Duration) *time.Time {
	at := now.Add(-d)
	return &at
}

func date(year int, month time.Month, day int) *time.Time {
	at := time.Date(year, month, day, 0, 0, 0, 0, time.UTC)
	return &at
}

const day = 24 * time.Hour

func TestListStaysWithinTheRetentionWindow(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		filter trail.Filter
		since  *time.Time // what the store is asked for
		code   apperr.Code
	}{
		"without fromDate the window itself is asked for":          {trail.Filter{}, ago(90 * day), ""},
		"a later fromDate is asked for as it is":                   {trail.Filter{From: ago(day)}, ago(day), ""},
		"a fromDate at the edge is inside":                         {trail.Filter{From: ago(90 * day)}, ago(90 * day), ""},
		"a fromDate the way of a request before the edge is too":   {trail.Filter{From: ago(90*day + 10*time.Second)}, ago(90 * day), ""},
		"a fromDate a minute before the edge is outside":           {trail.Filter{From: ago(90*day + time.Minute)}, nil, apperr.RetentionWindowExceeded},
		"the day on which the window begins is inside":             {trail.Filter{From: date(2026, 8, 24), FromIsDate: true}, ago(90 * day), ""},
		"the day before is outside":                                {trail.Filter{From: date(2026, 8, 23), FromIsDate: true}, nil, apperr.RetentionWindowExceeded},
		"fromDate after toDate is refused":                         {trail.Filter{From: ago(day), To: ago(2 * day)}, nil, apperr.ValidationError},
		"fromDate equal to toDate is a moment":                     {trail.Filter{From: ago(day), To: ago(day)}, ago(day), ""},
		"a toDate before the window alone is a question, no fault": {trail.Filter{To: ago(100 * day)}, ago(90 * day), ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := &shelf{}
			_, err := reader(store).List(t.Context(), test.filter, paging.Page{Limit: 20})
			if test.code != "" {
				require.Equal(t, test.code, apperr.CodeOf(err))
				require.Nil(t, store.asked.From, "the store is not asked")
				return
			}
			require.NoError(t, err)
			require.Equal(t, test.since.UTC(), store.asked.From.UTC())
		})
	}
}

func TestListNamesTheRetentionWindowItRefusesFor(t *testing.T) {
	t.Parallel()
	_, err := reader(&shelf{}).List(t.Context(), trail.Filter{From: ago(91 * day)}, paging.Page{Limit: 20})
	var refused *apperr.Error
	require.ErrorAs(t, err, &refused)
	require.Equal(t, map[string]any{"retentionDays": 90}, refused.Details)
}

func TestListNamesTheFieldThatIsWrong(t *testing.T) {
	t.Parallel()
	_, err := reader(&shelf{}).List(t.Context(), trail.Filter{From: ago(0), To: ago(day)}, paging.Page{Limit: 20})
	var refused *apperr.Error
	require.ErrorAs(t, err, &refused)
	require.Equal(t, []apperr.FieldError{{Field: "fromDate", Reason: "must not be after toDate"}}, refused.Details["errors"])
}

func TestGetHidesEventsOutsideOfTheWindow(t *testing.T) {
	t.Parallel()
	inside := trail.Event{ID: uuid.New(), Timestamp: *ago(90 * day)}
	outside := trail.Event{ID: uuid.New(), Timestamp: *ago(90*day + time.Microsecond)}
	r := reader(&shelf{events: []trail.Event{inside, outside}})

	found, err := r.Get(t.Context(), inside.ID)
	require.NoError(t, err)
	require.Equal(t, inside, found)
	for _, id := range []uuid.UUID{outside.ID, uuid.New()} {
		_, err = r.Get(t.Context(), id)
		require.Equal(t, apperr.AuditEventNotFound, apperr.CodeOf(err))
	}
}

func TestReaderPassesOnWhatFails(t *testing.T) {
	t.Parallel()
	broken := errors.New("away")
	r := reader(&shelf{err: broken})
	_, err := r.List(t.Context(), trail.Filter{}, paging.Page{Limit: 1})
	require.ErrorIs(t, err, broken)
	_, err = r.Get(t.Context(), uuid.New())
	require.ErrorIs(t, err, broken)
}
