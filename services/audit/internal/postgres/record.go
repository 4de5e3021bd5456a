package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

// maxDeadText bounds the subject and the reason of a dead letter, in bytes.
const maxDeadText = 1024

// Record stores a batch in one transaction: first all events by one statement,
// and where that is refused, once more row by row, so that the one at fault is
// found and the others are stored.
func (s *Store) Record(ctx context.Context, batch []trail.Delivery) ([]trail.Verdict, error) {
	verdicts, err := s.record(ctx, batch, insertAtOnce)
	if err != nil && !errors.Is(pgdb.Fault(err), apperr.Unavailable(nil)) {
		verdicts, err = s.record(ctx, batch, insertEach)
	}
	if err != nil {
		return nil, pgdb.Fault(err)
	}
	return verdicts, nil
}

// insert writes the events among the deliveries and fills in their verdicts. A
// delivery that turns out to be impossible to store gets its Reject.
type insert func(ctx context.Context, tx pgx.Tx, batch []trail.Delivery, verdicts []trail.Verdict) error

func (s *Store) record(ctx context.Context, batch []trail.Delivery, write insert) ([]trail.Verdict, error) {
	verdicts := make([]trail.Verdict, len(batch))
	work := make([]trail.Delivery, len(batch))
	copy(work, batch)
	err := s.db.WithTx(ctx, func(tx pgx.Tx) error {
		if err := write(ctx, tx, work, verdicts); err != nil {
			return err
		}
		return bury(ctx, tx, work, verdicts)
	})
	return verdicts, err
}

// In the order of the ids, so that replicas that were given the same events wait
// for each other and never in a circle.
const sqlInsert = `-- name: event_insert
INSERT INTO audit.events (event_id, timestamp, agent_id, actor_id, action, outcome, service, payload)
SELECT event_id, at, agent_id, actor_id, action, outcome, service, payload::json
FROM unnest($1::uuid[], $2::timestamptz[], $3::uuid[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::text[])
  AS e(event_id, at, agent_id, actor_id, action, outcome, service, payload)
ORDER BY event_id
ON CONFLICT (event_id) DO NOTHING
RETURNING event_id`

func insertAtOnce(ctx context.Context, tx pgx.Tx, batch []trail.Delivery, verdicts []trail.Verdict) error {
	inserted, err := insertEvents(ctx, tx, batch)
	if err != nil {
		return err
	}
	for i, d := range batch {
		if d.Reject != "" {
			continue
		}
		verdicts[i] = trail.Duplicate
		if inserted[d.Event.ID] {
			verdicts[i] = trail.Stored
			delete(inserted, d.Event.ID)
		}
	}
	return nil
}

func insertEach(ctx context.Context, tx pgx.Tx, batch []trail.Delivery, verdicts []trail.Verdict) error {
	for i := range batch {
		err := pgx.BeginFunc(ctx, tx, func(savepoint pgx.Tx) error {
			return insertAtOnce(ctx, savepoint, batch[i:i+1], verdicts[i:i+1])
		})
		switch reason, at := faultOfRow(err); {
		case err == nil:
		case at:
			batch[i].Reject = reason
		case errors.Is(pgdb.Fault(err), apperr.Unavailable(nil)) || faultOfSchema(err):
			return err
		default:
			// Neither the row's fault nor that of all, a damaged page for one: this
			// delivery comes again, and the others are not held up by it.
			verdicts[i] = trail.Retry
		}
	}
	return nil
}

func insertEvents(ctx context.Context, tx pgx.Tx, batch []trail.Delivery) (map[uuid.UUID]bool, error) {
	var (
		ids, agents, actors                 = []uuid.UUID{}, []*uuid.UUID{}, []*uuid.UUID{}
		times                               = []time.Time{}
		actions, outcomes, services, bodies = []string{}, []string{}, []string{}, []string{}
	)
	for _, d := range batch {
		if d.Reject != "" {
			continue
		}
		e := d.Event
		ids, times = append(ids, e.ID), append(times, e.Timestamp)
		agents, actors = append(agents, e.AgentID), append(actors, e.ActorID)
		actions, outcomes = append(actions, e.Action), append(outcomes, e.Outcome)
		services, bodies = append(services, e.Service), append(bodies, string(e.Payload))
	}
	if len(ids) == 0 {
		return nil, nil
	}
	rows, err := tx.Query(ctx, sqlInsert, ids, times, agents, actors, actions, outcomes, services, bodies)
	if err != nil {
		return nil, err
	}
	returned, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return nil, err
	}
	inserted := make(map[uuid.UUID]bool, len(returned))
	for _, id := range returned {
		inserted[id] = true
	}
	return inserted, nil
}

const sqlBury = `-- name: dead_letter_insert
INSERT INTO audit.dead_letters (stream_sequence, published_at, subject, reason, payload, payload_bytes)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT ON CONSTRAINT dead_letters_message DO NOTHING`

// bury keeps what cannot be an event, once however often it is delivered.
func bury(ctx context.Context, tx pgx.Tx, batch []trail.Delivery, verdicts []trail.Verdict) error {
	for i, d := range batch {
		if d.Reject == "" {
			continue
		}
		_, err := tx.Exec(ctx, sqlBury, int64(d.Origin.Sequence), d.Origin.PublishedAt, //nolint:gosec // a stream never counts to 2^63
			plain(d.Origin.Subject), plain(d.Reject), d.Payload[:min(len(d.Payload), trail.MaxDeadPayload)], len(d.Payload))
		if err != nil {
			return fmt.Errorf("keep a dead letter: %w", err)
		}
		verdicts[i] = trail.Dead
	}
	return nil
}

// faultOfRow tells whether a statement was refused for what the row holds: a data
// exception, a violated constraint, or a value past a limit of Postgres. The same
// row would be refused for ever.
func faultOfRow(err error) (reason string, at bool) {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || len(pg.Code) < 2 {
		return "", false
	}
	switch pg.Code[:2] {
	case "22", "23", "54":
		return fmt.Sprintf("refused by the database: %s (SQLSTATE %s)", pg.Message, pg.Code), true
	}
	return "", false
}

// faultOfSchema tells whether a table or a right is missing, which strikes every
// row: it has to be an error, or nobody would hear why all is tried again.
func faultOfSchema(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && strings.HasPrefix(pg.Code, "42")
}

// plain makes text that Postgres takes: valid UTF-8 without NUL, not too long.
func plain(text string) string {
	text = text[:min(len(text), maxDeadText)]
	return strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "\uFFFD")
}
