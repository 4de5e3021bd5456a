package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sentryagent/agentidp/pkg/auditlog"
	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/services/audit/internal/export"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

var _ export.Store = (*Store)(nil)

const (
	sqlRows = "-- name: leaf_rows\nSELECT leaf_index, payload::text FROM audit.events WHERE "

	// The head and the rows are those of one moment, so a row that is stored in the
	// meantime has its leaf.
	sqlStrays = `-- name: leaf_strays
SELECT leaf_index, payload::text FROM audit.events WHERE leaf_index >= (SELECT size FROM audit.tree) ORDER BY leaf_index LIMIT $1`

	sqlDropped = `-- name: dropped_days
SELECT day, events, coalesce(first_leaf, 0), coalesce(last_leaf, 0) FROM audit.dropped_partitions ORDER BY day`
)

// Rows are events in leaf order; see export.Store.
func (s *Store) Rows(ctx context.Context, filter *trail.Filter, first, end int64, limit int) ([]export.Row, error) {
	if filter == nil {
		filter = &trail.Filter{}
	}
	where := matching(*filter)
	where.add("leaf_index >= %s", first)
	where.add("leaf_index < %s", end)
	sql := sqlRows + where.sql() + " ORDER BY leaf_index" + where.bind(" LIMIT %s", limit)
	return s.rows(ctx, sql, where.args...)
}

// Strays are events that are stored and are no leaf; see export.Store.
func (s *Store) Strays(ctx context.Context, limit int) ([]export.Row, error) {
	return s.rows(ctx, sqlStrays, limit)
}

func (s *Store) rows(ctx context.Context, sql string, args ...any) (found []export.Row, err error) {
	err = s.ask(ctx, question{sql, args, func(rows pgx.Rows) (err error) {
		found, err = pgx.CollectRows(rows, pgx.RowToStructByPos[export.Row])
		return err
	}})
	return found, pgdb.Fault(err)
}

// Dropped are the days that retention has removed, the oldest first.
func (s *Store) Dropped(ctx context.Context) ([]auditlog.DroppedDay, error) {
	rows, err := s.db.Query(ctx, sqlDropped)
	if err != nil {
		return nil, pgdb.Fault(err)
	}
	days, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (auditlog.DroppedDay, error) {
		var day time.Time
		var dropped auditlog.DroppedDay
		err := row.Scan(&day, &dropped.Events, &dropped.FirstLeaf, &dropped.LastLeaf)
		dropped.Day = day.Format(time.DateOnly)
		return dropped, err
	})
	return days, pgdb.Fault(err)
}
