package postgres

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

// nearbyFor is how long before its beginning a page is looked for first.
const nearbyFor = 3 * 24 * time.Hour

const (
	// A plan for the days that the arguments happen to mean would be made anew for
	// each list, which takes longer than the list with as many tables as there are
	// days. One plan for all arguments leaves out the other days when it begins to
	// run. It may only walk the index that has the order of the list: whatever sorts
	// would first read all that matches.
	sqlPlans = `-- name: event_plans
SELECT set_config('plan_cache_mode', 'force_generic_plan', true), set_config('enable_sort', 'off', true),
  set_config('enable_bitmapscan', 'off', true), set_config('enable_seqscan', 'off', true)`

	sqlList  = "-- name: event_list\nSELECT payload::text FROM audit.events WHERE "
	sqlOrder = " ORDER BY timestamp DESC, event_id DESC"
)

// List returns up to slice.Limit+1 events that match, newest first, and the
// number of all that match: what slice says where it continues a walk, else an
// exact one up to countUpTo, else an estimate.
func (s *Store) List(ctx context.Context, filter trail.Filter, slice trail.Slice) (events []trail.Event, total trail.Total, err error) {
	until := s.beginning(filter, slice)
	if slice.After == nil && slice.Offset == 0 {
		events, total, err = s.newest(ctx, filter, slice.Limit, until)
	} else {
		events, total, err = s.further(ctx, filter, slice, until)
	}
	if err != nil {
		return nil, trail.Total{}, pgdb.Fault(err)
	}
	return events, total, nil
}

// newest is the first page.
func (s *Store) newest(ctx context.Context, filter trail.Filter, limit int, until time.Time) ([]trail.Event, trail.Total, error) {
	nearby, since := filter, later(until.Add(-nearbyFor), *filter.From)
	nearby.From = &since
	events, err := s.page(ctx, nearby, trail.Slice{Limit: limit})
	switch found := int64(len(events)); {
	case err != nil:
		return nil, trail.Total{}, err
	case len(events) > limit:
		total, err := s.total(ctx, filter, events, until)
		return events, total, err
	case since.Equal(*filter.From):
		return events, trail.Total{Events: found}, nil
	default:
		return s.sparse(ctx, filter, limit, until, found)
	}
}

// sparse is the first page of a list that has no more than found events in the days near its
// beginning. To count so few is a walk through about all days, which passes the page.
func (s *Store) sparse(ctx context.Context, filter trail.Filter, limit int, until time.Time, found int64) ([]trail.Event, trail.Total, error) {
	var events []trail.Event
	var counted tally
	stretch := stretch{filter: filter, until: until, want: countUpTo + 1}
	err := stretch.look(until.Add(-stretch.wider(nearbyFor, found)), func(some trail.Filter) (_ int64, err error) {
		events, counted, err = s.countedPage(ctx, some, limit)
		return counted.events, err
	})
	if err != nil {
		return nil, trail.Total{}, err
	}
	total, err := s.conclude(ctx, filter, counted, until)
	return events, total, err
}

// further is a page that begins behind others.
func (s *Store) further(ctx context.Context, filter trail.Filter, slice trail.Slice, until time.Time) ([]trail.Event, trail.Total, error) {
	var events []trail.Event
	// Whoever is behind an offset wants more than fits into a page.
	stretch := stretch{filter: filter, until: until, want: slice.Offset + int64(slice.Limit) + 1}
	err := stretch.look(until.Add(-nearbyFor), func(some trail.Filter) (_ int64, err error) {
		events, err = s.page(ctx, some, slice)
		return slice.Offset + int64(len(events)), err
	})
	switch {
	case err != nil:
		return nil, trail.Total{}, err
	case slice.After != nil:
		return events, slice.Total, nil
	case len(events) > 0 && len(events) <= slice.Limit: // the list has come to its end
		return events, trail.Total{Events: slice.Offset + int64(len(events))}, nil
	}
	total, err := s.total(ctx, filter, events, until)
	return events, total, err
}

// beginning is a moment that no event of the page is after, unless it has just happened.
func (s *Store) beginning(filter trail.Filter, slice trail.Slice) time.Time {
	until := s.clock()
	if filter.To != nil {
		until = earlier(until, *filter.To)
	}
	if slice.After != nil {
		until = earlier(until, slice.After.Time)
	}
	return until
}

// stretch is the search for the want newest events that match a filter, none of them after until.
// A statement costs about as much for each day that it has to open as for all that it
// reads there, so it opens as few as it may.
type stretch struct {
	filter trail.Filter
	until  time.Time
	want   int64
}

// look asks for the events since from, and as long as they are too few for those of a longer
// time: as long as would hold enough, going by those that were found. What would be most of
// the filter is all of it.
func (s stretch) look(from time.Time, find func(trail.Filter) (found int64, err error)) error {
	for length := s.until.Sub(from); length < s.whole()/2; {
		some, since := s.filter, s.until.Add(-length)
		some.From = &since
		found, err := find(some)
		if err != nil || found >= s.want {
			return err
		}
		length = s.wider(length, found)
	}
	_, err := find(s.filter)
	return err
}

// wider is what to look through after a time of that length held only found.
func (s stretch) wider(length time.Duration, found int64) time.Duration {
	if found <= 0 {
		return s.whole() // nothing is known of how far apart they are
	}
	return time.Duration(min(max(2, 1.25*float64(s.want)/float64(found))*float64(length), float64(s.whole())))
}

func (s stretch) whole() time.Duration { return s.until.Sub(*s.filter.From) }

func (s *Store) page(ctx context.Context, filter trail.Filter, slice trail.Slice) (events []trail.Event, err error) {
	sql, args := listing(filter, slice)
	err = s.ask(ctx, sql, args, func(rows pgx.Rows) (err error) {
		events, err = pgx.CollectRows(rows, scan)
		return err
	})
	return events, err
}

// listing is the statement of a list and its arguments.
func listing(filter trail.Filter, slice trail.Slice) (sql string, args []any) {
	where := matching(filter)
	if slice.After != nil {
		// The first condition says no more than the second; it is there because days
		// are left out for a comparison of the time alone.
		where.add("timestamp <= %s", slice.After.Time)
		where.add("(timestamp, event_id) < (%s, %s)", slice.After.Time, slice.After.ID)
	}
	sql = sqlList + where.sql() + sqlOrder + where.bind(" LIMIT %s OFFSET %s", slice.Limit+1, slice.Offset)
	return sql, where.args
}

// ask runs one statement with the plans of lists.
func (s *Store) ask(ctx context.Context, sql string, args []any, read func(pgx.Rows) error) error {
	// The statements of a batch are one transaction, and so far the settings reach.
	batch := &pgx.Batch{}
	batch.Queue(sqlPlans).Query(func(rows pgx.Rows) error {
		rows.Close()
		return rows.Err()
	})
	batch.Queue(sql, args...).Query(read)
	return s.db.SendBatch(ctx, batch).Close()
}

// conditions collects what a row must meet. Only conditions that are asked for
// get into the statement, so that the planner sees which index serves it.
type conditions struct {
	terms []string
	args  []any
}

func matching(filter trail.Filter) *conditions {
	c := &conditions{}
	if filter.From != nil {
		c.add("timestamp >= %s", *filter.From)
	}
	if filter.To != nil {
		c.add("timestamp <= %s", *filter.To)
	}
	if filter.AgentID != nil {
		c.add("agent_id = %s", *filter.AgentID)
	}
	if filter.ActorID != nil {
		c.add("actor_id = %s", *filter.ActorID)
	}
	if filter.Action != nil {
		c.add("action = %s", *filter.Action)
	}
	switch {
	case filter.Outcome == nil:
	case *filter.Outcome == trail.OutcomeFailure:
		// Not as an argument: one plan for all arguments cannot use the indexes of
		// failures.
		c.add("outcome = 'failure'")
	default:
		c.add("outcome = %s", *filter.Outcome)
	}
	return c
}

// add appends a term; each %s in it becomes the placeholder of one argument.
func (c *conditions) add(term string, args ...any) {
	c.terms = append(c.terms, c.bind(term, args...))
}

func (c *conditions) bind(text string, args ...any) string {
	placeholders := make([]any, len(args))
	for i, arg := range args {
		c.args = append(c.args, arg)
		placeholders[i] = fmt.Sprintf("$%d", len(c.args))
	}
	return fmt.Sprintf(text, placeholders...)
}

func (c *conditions) sql() string {
	if len(c.terms) == 0 {
		return "true"
	}
	return strings.Join(c.terms, " AND ")
}
