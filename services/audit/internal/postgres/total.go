package postgres

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

const (
	// countUpTo is how many events are counted one by one. Of more, the number is
	// estimated: to count them would take longer with every day.
	countUpTo = 1000
	// mostEstimates are remembered at once.
	mostEstimates = 1024

	sqlCount = "-- name: event_count\nSELECT count(*), min(timestamp) FROM (SELECT timestamp FROM audit.events WHERE "
	// The events of a page among those that are counted.
	sqlCountedPage = `-- name: event_counted_page
SELECT count(*), min(timestamp), array_agg(payload::text ORDER BY place) FILTER (WHERE place <= %s)
FROM (SELECT row_number() OVER (ORDER BY timestamp DESC, event_id DESC) AS place, timestamp, payload
  FROM (SELECT timestamp, event_id, payload FROM audit.events WHERE %s) newest) placed`
)

// tally is how many were counted, and when the oldest of them was.
type tally struct {
	events int64
	oldest *time.Time // nil if there are none
}

// total counts the newest that match, and stops where that gets dear. page are some
// of the newest.
func (s *Store) total(ctx context.Context, filter trail.Filter, page []trail.Event, until time.Time) (trail.Total, error) {
	if events, ok := s.estimates.recall(filter, until); ok {
		return trail.Total{Events: events, Estimate: true}, nil
	}
	var counted tally
	stretch := stretch{filter: filter, until: until, want: countUpTo + 1}
	err := stretch.look(reach(page, *filter.From), func(some trail.Filter) (_ int64, err error) {
		counted, err = s.count(ctx, some)
		return counted.events, err
	})
	if err != nil {
		return trail.Total{}, err
	}
	return s.conclude(ctx, filter, counted, until)
}

// conclude tells from the newest that match how many match in all.
func (s *Store) conclude(ctx context.Context, filter trail.Filter, counted tally, until time.Time) (trail.Total, error) {
	if counted.events <= countUpTo {
		return trail.Total{Events: counted.events}, nil
	}
	days, err := s.volumes.read(ctx, s.db)
	if err != nil {
		return trail.Total{}, err
	}
	events := days.extrapolate(counted.events, *filter.From, *counted.oldest, until)
	if filter.Broad() {
		events = max(days.between(*filter.From, until), counted.events)
	}
	s.estimates.remember(filter, events)
	return trail.Total{Events: events, Estimate: true}, nil
}

// reach is since when there should have been as many events as are counted, and a few
// more, going by how far apart those of a page are; from where a page does not tell.
func reach(page []trail.Event, from time.Time) time.Time {
	if len(page) < 2 {
		return from
	}
	newest, last := page[0].Timestamp, page[len(page)-1].Timestamp
	pages := 1.25 * float64(countUpTo+len(page)) / float64(len(page))
	if span := newest.Sub(last); span < 365*24*time.Hour {
		return later(last.Add(-time.Duration(pages*float64(span))), from)
	}
	return from
}

// count counts the newest events that match, up to one more than countUpTo.
func (s *Store) count(ctx context.Context, filter trail.Filter) (counted tally, err error) {
	where := matching(filter)
	sql := sqlCount + where.sql() + sqlOrder + where.bind(" LIMIT %s", countUpTo+1) + ") newest"
	err = s.ask(ctx, sql, where.args, func(rows pgx.Rows) error {
		_, err := pgx.ForEachRow(rows, []any{&counted.events, &counted.oldest}, func() error { return nil })
		return err
	})
	return counted, err
}

// countedPage is count, and the page that begins the list, in one walk.
func (s *Store) countedPage(ctx context.Context, filter trail.Filter, limit int) (events []trail.Event, counted tally, err error) {
	sql, args := countingPage(filter, limit)
	var payloads [][]byte
	err = s.ask(ctx, sql, args, func(rows pgx.Rows) error {
		_, err := pgx.ForEachRow(rows, []any{&counted.events, &counted.oldest, &payloads}, func() error { return nil })
		return err
	})
	for _, payload := range payloads {
		event, err := stored(payload)
		if err != nil {
			return nil, tally{}, err
		}
		events = append(events, event)
	}
	return events, counted, err
}

// countingPage is the statement of countedPage and its arguments.
func countingPage(filter trail.Filter, limit int) (sql string, args []any) {
	where := matching(filter)
	newest := where.sql() + sqlOrder + where.bind(" LIMIT %s", countUpTo+1)
	return where.bind(fmt.Sprintf(sqlCountedPage, "%s", newest), limit+1), where.args
}

// estimates remembers the last estimates for as long as they are believed, which is as
// long as the volumes that they were made of. So who looks at the same list again, as
// dashboards do, has it counted once. Numbers that were counted are not remembered:
// they are exact. Its zero value, with a clock, remembers none.
type estimates struct {
	clock func() time.Time

	mutex sync.Mutex
	known map[question]estimate
}

// question is what an estimate is of, but for when the events begin: lists without a
// beginning begin with the window, which moves all the time.
type question struct {
	agent, actor    uuid.NullUUID
	action, outcome string
	to              time.Time
}

type estimate struct {
	from, at time.Time
	events   int64
}

func questionOf(filter trail.Filter) question {
	return question{
		agent: nullable(filter.AgentID), actor: nullable(filter.ActorID),
		action: value(filter.Action), outcome: value(filter.Outcome), to: value(filter.To),
	}
}

func nullable(id *uuid.UUID) uuid.NullUUID {
	return uuid.NullUUID{UUID: value(id), Valid: id != nil}
}

func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// recall is the estimate for a list that begins no more than a thousandth of its length
// before or after the one that was estimated.
func (e *estimates) recall(filter trail.Filter, until time.Time) (events int64, ok bool) {
	e.mutex.Lock()
	defer e.mutex.Unlock()
	known, ok := e.known[questionOf(filter)]
	if !ok || e.clock().Sub(known.at) >= volumeFor {
		return 0, false
	}
	return known.events, filter.From.Sub(known.from).Abs() <= until.Sub(*filter.From)/1000
}

func (e *estimates) remember(filter trail.Filter, events int64) {
	e.mutex.Lock()
	defer e.mutex.Unlock()
	if e.known == nil || len(e.known) >= mostEstimates {
		e.known = make(map[question]estimate)
	}
	e.known[questionOf(filter)] = estimate{from: *filter.From, at: e.clock(), events: events}
}
