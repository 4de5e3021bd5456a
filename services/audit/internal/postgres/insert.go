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

const sqlInsert = `-- name: event_insert
INSERT INTO audit.events (event_id, timestamp, leaf_index, agent_id, actor_id, action, outcome, service, payload)
SELECT event_id, at, leaf_index, agent_id, actor_id, action, outcome, service, payload::json
FROM unnest($1::uuid[], $2::timestamptz[], $3::bigint[], $4::uuid[], $5::uuid[], $6::text[], $7::text[], $8::text[], $9::text[])
  AS e(event_id, at, leaf_index, agent_id, actor_id, action, outcome, service, payload)`

var _ insert = insertAtOnce

func insertAtOnce(_ context.Context, _ pgx.Tx, b *pgx.Batch, fresh []*entry, base int64) ([]*entry, error) {
	b.Queue(sqlInsert, columns(fresh, base)...)
	return fresh, nil
}

// insertApart writes in parts, half as large after each that is refused, until a row
// is alone, and twice as large after each that is not: a few rows that are refused cost
// a few statements for each, and not one for every other row.
func (s *Sequencer) insertApart(ctx context.Context, tx pgx.Tx, _ *pgx.Batch, fresh []*entry, base int64) ([]*entry, error) {
	var stored []*entry
	for size := len(fresh); len(fresh) > 0; {
		part := fresh[:min(size, len(fresh))]
		err := pgx.BeginFunc(ctx, tx, func(savepoint pgx.Tx) error {
			_, err := savepoint.Exec(ctx, sqlInsert, columns(part, base+int64(len(stored)))...)
			return err
		})
		if faultOfDay(err) {
			s.days.forget()
		}
		switch reason, at := faultOfRow(err); {
		case err == nil:
			stored = append(stored, part...)
			size = 2 * len(part)
		case apperr.CodeOf(pgdb.Fault(err)) == apperr.ServiceUnavailable || faultOfSchema(err):
			return nil, err
		case len(part) > 1:
			size = len(part) / 2
			continue
		case at:
			part[0].Reject = reason
		default:
			// Neither the row's fault nor that of all, a damaged page or a day that is
			// gone: this delivery comes again, and the others are not held up by it.
			part[0].verdict = trail.Retry
		}
		fresh = fresh[len(part):]
	}
	return stored, nil
}

// columns are the arguments of sqlInsert.
func columns(entries []*entry, base int64) []any {
	n := len(entries)
	ids, times, leaves := make([]uuid.UUID, n), make([]time.Time, n), make([]int64, n)
	agents, actors := make([]uuid.NullUUID, n), make([]uuid.NullUUID, n)
	actions, outcomes, services, payloads := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	for i, e := range entries {
		event := e.Event
		ids[i], times[i], leaves[i] = event.ID, event.Timestamp, base+int64(i)
		agents[i], actors[i] = nullable(event.AgentID), nullable(event.ActorID)
		actions[i], outcomes[i], services[i], payloads[i] = event.Action, event.Outcome, event.Service, string(event.Payload)
	}
	return []any{ids, times, leaves, agents, actors, actions, outcomes, services, payloads}
}

// nullable is an id as pgx writes it at once. A pointer to one it writes as text first, and reads that again, which takes
// longer than all other columns together.
func nullable(id *uuid.UUID) uuid.NullUUID {
	if id == nil {
		return uuid.NullUUID{}
	}
	return uuid.NullUUID{UUID: *id, Valid: true}
}

const sqlBury = `-- name: dead_letter_insert
INSERT INTO audit.dead_letters (stream_sequence, published_at, line, subject, reason, payload, payload_bytes)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT ON CONSTRAINT dead_letters_message DO NOTHING`

// queueDead keeps what cannot be an event, once however often it is delivered.
func queueDead(b *pgx.Batch, entries []*entry) {
	for _, e := range entries {
		if e.Reject == "" {
			continue
		}
		b.Queue(sqlBury, int64(e.Origin.Sequence), e.Origin.PublishedAt, e.Origin.Line, //nolint:gosec // a stream never counts to 2^63
			plain(e.Origin.Subject), plain(e.Reject), e.Payload[:min(len(e.Payload), trail.MaxDeadPayload)], len(e.Payload))
		e.verdict = trail.Dead
	}
}

// faultOfRow tells whether a statement was refused for what the row holds: a data
// exception, a violated constraint, or a value past a limit of Postgres. The same
// row would be refused for ever.
func faultOfRow(err error) (reason string, at bool) {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || len(pg.Code) < 2 || faultOfDay(err) {
		return "", false
	}
	switch pg.Code[:2] {
	case "22", "23", "54":
		return fmt.Sprintf("refused by the database: %s (SQLSTATE %s)", pg.Message, pg.Code), true
	}
	return "", false
}

// faultOfDay tells whether the day of an event has no partition, though it had one:
// another server took over that lacks it, or retention removed it meanwhile. It is the
// one violated check without a name.
func faultOfDay(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "23514" && pg.ConstraintName == ""
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
