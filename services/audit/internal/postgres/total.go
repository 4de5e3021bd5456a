package postgres

import (
	"context"
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
)

// total counts the newest that match, and stops where that gets dear. page are some
// of the newest.
func (s *Store) total(ctx context.Context, filter trail.Filter, page []trail.Event) (trail.Total, error) {
	until := s.beginning(filter, trail.Slice{})
	if events, ok := s.estimates.recall(filter, until); ok {
		return trail.Total{Events: events, Estimate: true}, nil
	}
	counted, oldest := int64(0), (*time.Time)(nil)
	stretch := stretch{filter: filter, until: until, want: countUpTo + 1}
	err := stretch.look(reach(page, *filter.From), func(some trail.Filter) (found int64, err error) {
		counted, oldest, err = s.count(ctx, some)
		return counted, err
	})
	if err != nil || counted <= countUpTo || oldest == nil {
		return trail.Total{Events: counted}, err
	}
	days, err := s.volumes.read(ctx, s.db)
	if err != nil {
		return trail.Total{}, err
	}
	events := days.extrapolate(counted, *filter.From, *oldest, until)
	if filter.Broad() {
		events = max(days.between(*filter.From, until), counted)
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

// count counts the newest events that match, up to one more than countUpTo, and
// says when the oldest of them was.
func (s *Store) count(ctx context.Context, filter trail.Filter) (counted int64, oldest *time.Time, err error) {
	where := matching(filter)
	sql := sqlCount + where.sql() + sqlOrder + where.bind(" LIMIT %s", countUpTo+1) + ") newest"
	err = s.ask(ctx, sql, where.args, func(rows pgx.Rows) error {
		_, err := pgx.ForEachRow(rows, []any{&counted, &oldest}, func() error { return nil })
		return err
	})
	return counted, oldest, err
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
