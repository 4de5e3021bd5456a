package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

// dropTries is how often the lock of a day is asked for, dropPause the wait between.
const (
	dropTries = 20
	dropPause = 500 * time.Millisecond
)

// errBusy tells that another process removes days right now.
var errBusy = errors.New("another process removes days")

// Retention removes the days that lie before the window. It works as the role that
// owns the schema: the service's own role may remove nothing.
type Retention struct {
	DB     *pgdb.DB
	Window trail.Window
	Clock  func() time.Time
}

// Dropped is one day that was removed.
type Dropped struct {
	Day    time.Time
	Events int64
}

const sqlPartitions = `-- name: partitions_list
SELECT day FROM (
  SELECT to_date(c.relname, '"events_y"YYYY"m"MM"d"DD') AS day
  FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'audit.events'::regclass
) partitions WHERE day < $1::date ORDER BY day`

// Drop removes every day before the window, the oldest first, and returns those it
// removed, also when it failed half-way. If another process is about it, it leaves
// it to that.
func (r Retention) Drop(ctx context.Context) ([]Dropped, error) {
	oldest := r.Window.Oldest(r.Clock()).Format(time.DateOnly)
	rows, err := r.DB.Query(ctx, sqlPartitions, oldest)
	if err != nil {
		return nil, pgdb.Fault(err)
	}
	days, err := pgx.CollectRows(rows, pgx.RowTo[time.Time])
	if err != nil {
		return nil, pgdb.Fault(err)
	}
	var dropped []Dropped
	for _, at := range days {
		one, err := r.drop(ctx, at)
		if errors.Is(err, errBusy) {
			return dropped, nil
		}
		if gone(err) { // another process was faster
			continue
		}
		if err != nil {
			return dropped, fmt.Errorf("remove the day %s: %w", at.Format(time.DateOnly), pgdb.Fault(err))
		}
		dropped = append(dropped, one)
	}
	return dropped, nil
}

// gone tells whether a table was not there.
func gone(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "42P01"
}

// drop removes a day. That takes a lock which every reader of the trail waits for,
// so it is asked for shortly and again, and never waited for while others queue up
// behind.
func (r Retention) drop(ctx context.Context, at time.Time) (Dropped, error) {
	for try := 1; ; try++ {
		one, err := r.dropOnce(ctx, at)
		var pg *pgconn.PgError
		if !errors.As(err, &pg) || pg.Code != "55P03" && pg.Code != "40P01" || try == dropTries {
			return one, err
		}
		select {
		case <-ctx.Done():
			return one, err
		case <-time.After(dropPause):
		}
	}
}

const (
	sqlOnly = `-- name: retention_only
SELECT pg_try_advisory_xact_lock(hashtextextended('audit.retention', 0))`

	sqlDropLease = `-- name: retention_lease
SET LOCAL lock_timeout = '500ms'; SET LOCAL idle_in_transaction_session_timeout = '3s'`

	// The sequencer stands still while a day is counted and goes.
	sqlDropTake = `-- name: retention_take
SELECT FROM audit.tree FOR UPDATE`
)

// dropOnce writes down what the day held, and removes it, or does nothing of both.
func (r Retention) dropOnce(ctx context.Context, at time.Time) (Dropped, error) {
	one := Dropped{Day: at}
	partition := pgx.Identifier{"audit", at.Format("events_y2006m01d02")}.Sanitize()
	err := r.DB.WithTx(ctx, func(tx pgx.Tx) error {
		var only bool
		if err := tx.QueryRow(ctx, sqlOnly).Scan(&only); err != nil {
			return err
		}
		if !only {
			return errBusy
		}
		for _, statement := range []string{sqlDropLease, sqlDropTake} {
			if _, err := tx.Exec(ctx, statement, pgx.QueryExecModeSimpleProtocol); err != nil {
				return err
			}
		}
		err := tx.QueryRow(ctx, `-- name: retention_note
INSERT INTO audit.dropped_partitions (day, events, first_leaf, last_leaf)
SELECT $1::date, count(*), min(leaf_index), max(leaf_index) FROM `+partition+` RETURNING events`,
			at.Format(time.DateOnly)).Scan(&one.Events)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "-- name: retention_drop\nDROP TABLE "+partition)
		return err
	})
	return one, err
}
