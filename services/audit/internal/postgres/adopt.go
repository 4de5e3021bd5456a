package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

const (
	adoptBatch = 500
	// adoptSubject stands for the subject of events whose message is long gone.
	adoptSubject = "audit.events_unsequenced"
)

const (
	sqlUnsequenced = `-- name: unsequenced_count
SELECT to_regclass('audit.events_unsequenced') IS NOT NULL`

	sqlUnsequencedNext = `-- name: unsequenced_next
SELECT event_id, recorded_at, payload::text FROM audit.events_unsequenced
WHERE (recorded_at, event_id) > ($1, $2) ORDER BY recorded_at, event_id LIMIT $3`
)

// Unsequenced tells whether there are events of before the log. db is of the role
// that owns the schema.
func Unsequenced(ctx context.Context, db *pgdb.DB) (are bool, err error) {
	return are, pgdb.Fault(db.QueryRow(ctx, sqlUnsequenced).Scan(&are))
}

// Adopt makes the events of before the log leaves of it, in the order in which they
// were stored, by the sequencer that stores all others, and drops their old table.
// It can be stopped at any time and begun again: what has its leaf is a duplicate.
// It returns how many events it looked at.
func (s *Sequencer) Adopt(ctx context.Context) (int64, error) {
	adopted, last, lastID := int64(0), time.Time{}, uuid.Nil
	for {
		rows, err := s.DB.Query(ctx, sqlUnsequencedNext, last, lastID, adoptBatch)
		if err != nil {
			return adopted, pgdb.Fault(err)
		}
		var batch []trail.Delivery
		var payload []byte
		_, err = pgx.ForEachRow(rows, []any{&lastID, &last, &payload}, func() error {
			// Counted down from -1, the place in a stream of those that have none: a dead
			// letter is found again by it.
			place := uint64(-(adopted + int64(len(batch)) + 1)) //nolint:gosec // wraps on purpose
			origin := trail.Origin{Sequence: place, PublishedAt: last, Subject: adoptSubject}
			batch = append(batch, trail.Receive(origin, payload))
			return nil
		})
		if err != nil {
			return adopted, pgdb.Fault(err)
		}
		if len(batch) == 0 {
			break
		}
		verdicts, err := s.Record(ctx, batch)
		if err != nil {
			return adopted, err
		}
		for _, verdict := range verdicts {
			if verdict == trail.Retry {
				return adopted, errors.New("an event cannot be stored now")
			}
		}
		adopted += int64(len(batch))
	}
	if _, err := s.DB.Exec(ctx, "-- name: unsequenced_drop\nDROP TABLE audit.events_unsequenced"); err != nil {
		return adopted, fmt.Errorf("drop the table of events that all have their leaf now: %w", pgdb.Fault(err))
	}
	return adopted, nil
}
