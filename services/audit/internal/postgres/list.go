package postgres

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/sentryagent/agentidp/pkg/paging"
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

// List returns a page of the events that match. It asks the counts of the days first: each
// day that a statement opens costs about as much as all that it reads there.
func (s *Store) List(ctx context.Context, filter trail.Filter, page paging.Page) (paging.Listing[trail.Event], error) {
	if page.After != nil {
		to := page.After.Time
		if filter.To != nil {
			to = earlier(to, *filter.To)
		}
		filter.To = &to
	}
	days, err := s.counts(ctx, filter)
	if err != nil {
		return paging.Listing[trail.Event]{}, pgdb.Fault(err)
	}
	var events []trail.Event
	var questions []question
	if near, rest, ok := days.reach(filter, page); ok {
		sql, args := listing(near, rest)
		questions = append(questions, question{sql, args, func(rows pgx.Rows) (err error) {
			events, err = pgx.CollectRows(rows, scan)
			return err
		}})
	}
	var edges []*edge
	if page.After == nil {
		edges = days.edges(filter)
	}
	for _, edge := range edges {
		questions = append(questions, edge.count())
	}
	if err := s.ask(ctx, questions...); err != nil {
		return paging.Listing[trail.Event]{}, pgdb.Fault(err)
	}
	total := page.Total
	if page.After == nil {
		total = seen(events, page, days.total(filter, edges, s.clock()))
	}
	return paging.Cut(events, page.Limit, total, place), nil
}

func place(e trail.Event) paging.Position { return paging.Position{Time: e.Timestamp, ID: e.ID} }

// seen is the total, or what the fetched events tell better: they are later than the counts, and
// may show the end of the list.
func seen(fetched []trail.Event, page paging.Page, total paging.Total) paging.Total {
	known := page.Offset + int64(len(fetched))
	switch {
	case len(fetched) == 0 && page.Offset > 0: // the end lies before the page
	case len(fetched) <= page.Limit:
		total = paging.Total{Items: known}
	default:
		total.Items = max(total.Items, known)
	}
	return total
}

// listing is the statement of a list and its arguments.
func listing(filter trail.Filter, page paging.Page) (sql string, args []any) {
	where := matching(filter)
	if page.After != nil {
		where.add("(timestamp, event_id) < (%s, %s)", page.After.Time, page.After.ID)
	}
	sql = sqlList + where.sql() + sqlOrder + where.bind(" LIMIT %s OFFSET %s", page.Limit+1, page.Offset)
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
