// Package postgres keeps the audit trail in the schema audit. It holds every SQL
// statement of the audit service, and none of them changes or removes an event:
// the role it works as could not. What an event means is decided in package
// trail.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

// Store reads events. It is safe for concurrent use.
type Store struct {
	db *pgdb.DB
}

var _ trail.Store = (*Store)(nil)

// New returns a Store on db, which connects as a role that may read.
func New(db *pgdb.DB) *Store {
	return &Store{db: db}
}

const sqlReady = `-- name: audit_ready
SELECT EXISTS (SELECT FROM audit.events)`

// Ready answers nil when Postgres is reachable and the schema is there.
func (s *Store) Ready(ctx context.Context) error {
	var recorded bool
	return pgdb.Fault(s.db.QueryRow(ctx, sqlReady).Scan(&recorded))
}

const sqlGet = `-- name: event_get
SELECT payload::text FROM audit.events WHERE event_id = $1`

// Get returns one event, or trail.ErrNotFound.
func (s *Store) Get(ctx context.Context, id uuid.UUID) (trail.Event, error) {
	var payload []byte
	switch err := s.db.QueryRow(ctx, sqlGet, id).Scan(&payload); {
	case errors.Is(err, pgx.ErrNoRows):
		return trail.Event{}, trail.ErrNotFound
	case err != nil:
		return trail.Event{}, pgdb.Fault(err)
	}
	return stored(payload)
}

const (
	sqlCount = "-- name: event_count\nSELECT count(*) FROM audit.events WHERE "
	sqlList  = "-- name: event_list\nSELECT payload::text FROM audit.events WHERE "
	sqlOrder = " ORDER BY timestamp DESC, event_id DESC"
)

// List returns up to slice.Limit+1 events that match, newest first, and the
// number of all that match, counted unless slice continues a walk.
func (s *Store) List(ctx context.Context, filter trail.Filter, slice trail.Slice) ([]trail.Event, int64, error) {
	where := matching(filter)
	total := slice.Total
	batch := &pgx.Batch{}
	if slice.After == nil {
		batch.Queue(sqlCount+where.sql(), where.args...).QueryRow(func(row pgx.Row) error {
			return row.Scan(&total)
		})
	} else {
		where.add("(timestamp, event_id) < (%s, %s)", slice.After.Time, slice.After.ID)
	}
	list := sqlList + where.sql() + sqlOrder + where.bind(" LIMIT %s OFFSET %s", slice.Limit+1, slice.Offset)
	var events []trail.Event
	batch.Queue(list, where.args...).Query(func(rows pgx.Rows) (err error) {
		events, err = pgx.CollectRows(rows, scan)
		return err
	})
	if err := s.db.SendBatch(ctx, batch).Close(); err != nil {
		return nil, 0, pgdb.Fault(err)
	}
	return events, total, nil
}

// conditions collects what a row must meet. Only conditions that are asked for
// get into the statement, so that the planner sees which index serves it.
type conditions struct {
	terms []string
	args  []any
}

func matching(filter trail.Filter) *conditions {
	c := &conditions{}
	c.add("timestamp >= %s", *filter.From)
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
	if filter.Outcome != nil {
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
	return strings.Join(c.terms, " AND ")
}

func scan(row pgx.CollectableRow) (trail.Event, error) {
	var payload []byte
	if err := row.Scan(&payload); err != nil {
		return trail.Event{}, err
	}
	return stored(payload)
}

// stored reads an event back from the record of it, which the columns beside it
// only index.
func stored(payload []byte) (trail.Event, error) {
	event, err := trail.Decode(payload)
	if err != nil {
		return trail.Event{}, fmt.Errorf("read a stored event: %w", err)
	}
	return event, nil
}
