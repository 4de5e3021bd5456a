package postgres

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

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

// List returns up to slice.Limit+1 events that match, newest first, and the number of all
// that match: what slice says where it continues a walk. It asks the counts of the days
// first: each day that a statement opens costs about as much as all that it reads there.
func (s *Store) List(ctx context.Context, filter trail.Filter, slice trail.Slice) ([]trail.Event, trail.Total, error) {
	if slice.After != nil {
		to := slice.After.Time
		if filter.To != nil {
			to = earlier(to, *filter.To)
		}
		filter.To = &to
	}
	days, err := s.counts(ctx, filter)
	if err != nil {
		return nil, trail.Total{}, pgdb.Fault(err)
	}
	var events []trail.Event
	var questions []question
	if near, rest, ok := days.reach(filter, slice); ok {
		sql, args := listing(near, rest)
		questions = append(questions, question{sql, args, func(rows pgx.Rows) (err error) {
			events, err = pgx.CollectRows(rows, scan)
			return err
		}})
	}
	var edges []*edge
	if slice.After == nil {
		edges = days.edges(filter)
	}
	for _, edge := range edges {
		questions = append(questions, edge.count())
	}
	if err := s.ask(ctx, questions...); err != nil {
		return nil, trail.Total{}, pgdb.Fault(err)
	}
	if slice.After != nil {
		return events, slice.Total, nil
	}
	return events, seen(events, slice, days.total(filter, edges, s.clock())), nil
}

// seen is the total, or what the page tells better: it is later than the counts, and may show
// the end of the list.
func seen(events []trail.Event, slice trail.Slice, total trail.Total) trail.Total {
	known := slice.Offset + int64(len(events))
	switch {
	case len(events) == 0 && slice.Offset > 0: // the end lies before the page
	case len(events) <= slice.Limit:
		total = trail.Total{Events: known}
	default:
		total.Events = max(total.Events, known)
	}
	return total
}

// listing is the statement of a list and its arguments.
func listing(filter trail.Filter, slice trail.Slice) (sql string, args []any) {
	where := matching(filter)
	if slice.After != nil {
		where.add("(timestamp, event_id) < (%s, %s)", slice.After.Time, slice.After.ID)
	}
	sql = sqlList + where.sql() + sqlOrder + where.bind(" LIMIT %s OFFSET %s", slice.Limit+1, slice.Offset)
	return sql, where.args
}

// question is one statement.
type question struct {
	sql  string
	args []any
	read func(pgx.Rows) error
}

// ask runs statements with the plans of lists.
func (s *Store) ask(ctx context.Context, questions ...question) error {
	if len(questions) == 0 {
		return nil
	}
	// The statements of a batch are one transaction, and so far the settings reach.
	batch := &pgx.Batch{}
	batch.Queue(sqlPlans).Query(func(rows pgx.Rows) error {
		rows.Close()
		return rows.Err()
	})
	for _, q := range questions {
		batch.Queue(q.sql, q.args...).Query(q.read)
	}
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
