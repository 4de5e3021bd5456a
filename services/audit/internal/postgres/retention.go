package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sentryagent/agentidp/pkg/idle"
	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

// dropTries is how often the lock of a day is asked for, over a minute or so; the
// wait between doubles from firstDropPause to lastDropPause.
const (
	dropTries      = 20
	firstDropPause = 100 * time.Millisecond
	lastDropPause  = 5 * time.Second
)

var (
	// errBusy tells that another process removes days right now.
	errBusy = errors.New("another process removes days")
	// errGone tells that another process has removed the day.
	errGone = errors.New("the day is gone")
	// errChanged tells that a day got an event after it was counted.
	errChanged = errors.New("the day got an event meanwhile")
)

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

const (
	// sqlDay is the day of a partition c, null where it is none: Postgres may read the names of all tables before it leaves
	// out those that are no days.
	sqlDay = `CASE WHEN c.relname ~ '^events_y\d{4}m\d\dd\d\d$' THEN to_date(c.relname, '"events_y"YYYY"m"MM"d"DD') END`

	sqlDaysBefore = `SELECT day FROM (
  SELECT ` + sqlDay + ` AS day
  FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'audit.events'::regclass
) partitions WHERE day < $1::date`

	// The database's clock has to agree, as what is removed does not come back.
	sqlPartitions = `-- name: partitions_list
` + sqlDaysBefore + ` AND day < (now() AT TIME ZONE 'UTC')::date - $2::int ORDER BY day`
)

// Drop removes every day before the window, by its own clock and by the database's,
// the oldest first, and returns those it removed, also when it failed half-way. If
// another process is about it, it leaves it to that.
func (r Retention) Drop(ctx context.Context) ([]Dropped, error) {
	oldest := r.Window.Oldest(r.Clock()).Format(time.DateOnly)
	rows, err := r.DB.Query(ctx, sqlPartitions, oldest, r.Window.Days())
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
		if errors.Is(err, errGone) {
			continue
		}
		if err != nil {
			return dropped, fmt.Errorf("remove the day %s: %w", at.Format(time.DateOnly), pgdb.Fault(err))
		}
		dropped = append(dropped, one)
	}
	return dropped, nil
}

// orGone is errGone in the place of an error that the table of a day, which is the only
// one of the statement, is not there.
func orGone(err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "42P01" {
		return errGone
	}
	return err
}

// held is what a day holds: how many events, and their first and last leaf, nil if
// there are none.
type held struct {
	Events      int64
	First, Last *int64
}

// count reads what a day holds. That may take long, and holds nobody up.
func (r Retention) count(ctx context.Context, at time.Time) (held, error) {
	var h held
	err := r.DB.QueryRow(ctx, `-- name: retention_count
SELECT count(*), min(leaf_index), max(leaf_index) FROM `+partition(at)).Scan(&h.Events, &h.First, &h.Last)
	return h, orGone(err)
}

func partition(at time.Time) string {
	return pgx.Identifier{"audit", at.Format("events_y2006m01d02")}.Sanitize()
}

// drop removes a day. That takes a lock which whoever reads or stores any event
// waits for, and which itself waits for all who are reading: it is asked for for a
// moment only, and again after a while.
func (r Retention) drop(ctx context.Context, at time.Time) (Dropped, error) {
	one, pause := Dropped{Day: at}, firstDropPause
	for try := 1; ; try++ {
		h, err := r.count(ctx, at)
		if err == nil {
			err = r.dropCounted(ctx, at, h)
		}
		if err == nil {
			one.Events = h.Events
		}
		if !passes(err) || try == dropTries {
			return one, err
		}
		if idle.For(ctx, pause) != nil {
			return one, err
		}
		pause = min(2*pause, lastDropPause)
	}
}

// passes tells whether a day may be removed at another try: a lock was not to be had.
func passes(err error) bool {
	var pg *pgconn.PgError
	return errors.Is(err, errChanged) || errors.As(err, &pg) && (pg.Code == "55P03" || pg.Code == "40P01")
}

const (
	sqlOnly = `-- name: retention_only
SELECT pg_try_advisory_xact_lock(hashtextextended('audit.retention', 0))`

	sqlDropLease = `-- name: retention_lease
SET LOCAL lock_timeout = '50ms'; SET LOCAL idle_in_transaction_session_timeout = '3s'`

	// Also what a release that knew of no counts may have left of days before.
	sqlDropCounts = `-- name: retention_counts
DELETE FROM audit.day_counts WHERE day <= $1::date`

	// A day that a restore has brought back may have its note already, from when it was
	// removed before. That stays as it is, as notes are never changed: it is what
	// verifiers were told is gone; they find a day missing that held other leaves by now.
	sqlDropNote = `-- name: retention_note
INSERT INTO audit.dropped_partitions (day, events, first_leaf, last_leaf) VALUES ($1::date, $2, $3, $4)
ON CONFLICT (day) DO NOTHING`
)

// dropCounted writes down what the day held, and removes it and its counts, or does
// nothing of all that. The counts go first, while nobody waits for this: to find them
// takes a while. Then the parent is locked first, as whoever reads locks it first. The
// row audit.tree is left alone: all who store events would wait for it as long as this
// waits for its locks.
func (r Retention) dropCounted(ctx context.Context, at time.Time, h held) error {
	table := partition(at)
	return r.DB.WithTx(ctx, func(tx pgx.Tx) error {
		var only bool
		if err := tx.QueryRow(ctx, sqlOnly).Scan(&only); err != nil {
			return err
		}
		if !only {
			return errBusy
		}
		if _, err := tx.Exec(ctx, sqlDropLease, pgx.QueryExecModeSimpleProtocol); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, sqlDropCounts, at.Format(time.DateOnly)); err != nil {
			return err
		}
		for _, statement := range []string{
			"-- name: retention_lock\nLOCK TABLE ONLY audit.events IN ACCESS EXCLUSIVE MODE",
			"-- name: retention_lock_day\nLOCK TABLE " + table + " IN ACCESS EXCLUSIVE MODE",
		} {
			if _, err := tx.Exec(ctx, statement, pgx.QueryExecModeSimpleProtocol); err != nil {
				return orGone(err)
			}
		}
		// Leaves are given out in order and events are never removed, so that the last
		// leaf of a day that got another event is another one.
		var same bool
		err := tx.QueryRow(ctx, "-- name: retention_same\nSELECT max(leaf_index) IS NOT DISTINCT FROM $1 FROM "+table, h.Last).Scan(&same)
		if err != nil {
			return err
		}
		if !same {
			return errChanged
		}
		if _, err := tx.Exec(ctx, sqlDropNote, at.Format(time.DateOnly), h.Events, h.First, h.Last); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "-- name: retention_drop\nDROP TABLE "+table)
		return err
	})
}
