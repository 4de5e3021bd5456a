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

// countUpTo is how many events are counted one by one. Of more, the number is
// estimated: to count them would take longer with every day.
const countUpTo = 1000

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
	sqlCount = "-- name: event_count\nSELECT count(*), min(timestamp) FROM (SELECT timestamp FROM audit.events WHERE "
)

// List returns up to slice.Limit+1 events that match, newest first, and the
// number of all that match: what slice says where it continues a walk, else an
// exact one up to countUpTo, else an estimate.
func (s *Store) List(ctx context.Context, filter trail.Filter, slice trail.Slice) ([]trail.Event, trail.Total, error) {
	var events []trail.Event
	var err error
	if near, ok := s.nearby(filter, slice); ok {
		events, err = s.page(ctx, near, slice)
	}
	if err == nil && len(events) <= slice.Limit {
		events, err = s.page(ctx, filter, slice)
	}
	if err != nil {
		return nil, trail.Total{}, pgdb.Fault(err)
	}
	if slice.After != nil {
		return events, slice.Total, nil
	}
	if seen := slice.Offset + int64(len(events)); len(events) <= slice.Limit && (len(events) > 0 || slice.Offset == 0) {
		return events, trail.Total{Events: seen}, nil // the list has come to its end
	}
	total, err := s.total(ctx, filter, events)
	if err != nil {
		return nil, trail.Total{}, pgdb.Fault(err)
	}
	return events, total, nil
}

// nearby is the filter for the last days before the page begins. Most pages are full
// within these, and a statement costs about as much for each day it has to open as
// for all that it reads there. It is not ok where it would be the whole filter.
func (s *Store) nearby(filter trail.Filter, slice trail.Slice) (near trail.Filter, ok bool) {
	until := s.clock()
	if filter.To != nil && filter.To.Before(until) {
		until = *filter.To
	}
	if slice.After != nil && slice.After.Time.Before(until) {
		until = slice.After.Time
	}
	from := until.Add(-nearbyFor)
	near = filter
	near.From = &from
	return near, from.After(*filter.From)
}

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

// total counts the newest that match, and stops where that gets dear. page are some
// of the newest.
func (s *Store) total(ctx context.Context, filter trail.Filter, page []trail.Event) (trail.Total, error) {
	counted, oldest, err := int64(0), (*time.Time)(nil), error(nil)
	if recent, ok := reach(filter, page); ok {
		counted, oldest, err = s.count(ctx, recent)
	}
	if err == nil && counted <= countUpTo {
		counted, oldest, err = s.count(ctx, filter)
	}
	if err != nil || counted <= countUpTo || oldest == nil {
		return trail.Total{Events: counted}, err
	}
	days, err := s.volumes.read(ctx, s.db)
	if err != nil {
		return trail.Total{}, err
	}
	until := s.clock()
	if filter.To != nil && filter.To.Before(until) {
		until = *filter.To
	}
	if filter.Broad() {
		return trail.Total{Events: max(days.between(*filter.From, until), counted), Estimate: true}, nil
	}
	return trail.Total{Events: days.extrapolate(counted, *filter.From, *oldest, until), Estimate: true}, nil
}

// reach is the filter for as many days as should hold more than are counted, going
// by how far apart the events of a page are: each day that a statement leaves out
// makes it cheaper. It is not ok where that is the whole filter.
func reach(filter trail.Filter, page []trail.Event) (recent trail.Filter, ok bool) {
	if len(page) < 2 {
		return filter, false
	}
	newest, last := page[0].Timestamp, page[len(page)-1].Timestamp
	pages := float64(2*(countUpTo+len(page))) / float64(len(page))
	if span := newest.Sub(last); span < 365*24*time.Hour {
		from := last.Add(-time.Duration(pages * float64(span)))
		recent, ok = filter, from.After(*filter.From)
		recent.From = &from
	}
	return recent, ok
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
