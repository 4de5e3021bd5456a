package outbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sentryagent/agentidp/pkg/idle"
	"github.com/sentryagent/agentidp/pkg/natsx"
)

// lane publishes one kind of rows, a batch at a time.
type lane struct {
	relay *Relay
	claim string
	wake  chan struct{}
}

// claimed is a row that this relay holds until the given time.
type claimed struct {
	Message
	until time.Time
}

// errUnreachable means that JetStream answered nothing: it is away, or nobody declared the stream.
var errUnreachable = errors.New("jetstream does not take messages")

// run publishes whenever it is woken, and every second in any case. While nothing gets through it
// tries with one row, and less often.
func (l *lane) run(ctx context.Context) {
	poll, limit := pollInterval, batchSize
	for {
		err := l.drain(ctx, limit)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			poll, limit = pollInterval, batchSize
		default:
			if limit != 1 { // said once, until it works again
				l.relay.log.WarnContext(ctx, "outbox waits", slog.Any("error", err))
			}
			poll, limit = min(2*poll, slowestPoll), 1
		}
		if !l.sleep(ctx, poll, err != nil) {
			return
		}
	}
}

// sleep ends early when something was appended; after a failure not before a moment has passed, so
// that every new row does not bring another try.
func (l *lane) sleep(ctx context.Context, d time.Duration, failed bool) bool {
	const moment = 250 * time.Millisecond
	if failed {
		if idle.For(ctx, moment) != nil {
			return false
		}
		d -= moment
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
	case <-l.wake:
	}
	return true
}

// drain publishes until nothing is left that it could take. The first batch has limit rows at most.
func (l *lane) drain(ctx context.Context, limit int) error {
	for ctx.Err() == nil {
		if !l.relay.conn.Connected() {
			return fmt.Errorf("%w: not connected", errUnreachable)
		}
		taken, err := l.batch(ctx, limit)
		if err != nil || taken == 0 {
			return err
		}
		limit = batchSize
	}
	return nil
}

// batch claims, publishes, and deletes what was acknowledged. From the claim on it does not stop
// for ctx: rows that were published and not deleted would be published again.
func (l *lane) batch(ctx context.Context, limit int) (taken int, err error) {
	began := l.relay.clock()
	rows, err := l.take(ctx, limit)
	if err != nil || len(rows) == 0 {
		return 0, err
	}
	work := context.WithoutCancel(ctx)
	if l.relay.clock().Sub(began) > l.relay.lease/2 {
		// This program stood still, and another relay may be at these rows.
		return len(rows), l.settle(work, outcome{kept: rows})
	}
	done := l.publish(work, rows)
	if err := l.settle(work, done); err != nil {
		return len(rows), err
	}
	return len(rows), done.err
}

func (l *lane) take(ctx context.Context, limit int) ([]claimed, error) {
	ctx, cancel := context.WithTimeout(ctx, sqlTimeout)
	defer cancel()
	rows, err := l.relay.db.Query(ctx, l.claim, limit, l.relay.lease)
	if err != nil {
		return nil, fmt.Errorf("claim from the outbox: %w", err)
	}
	taken, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (c claimed, err error) {
		err = row.Scan(&c.ID, &c.Subject, &c.Payload, &c.until)
		return c, err
	})
	if err != nil {
		return nil, fmt.Errorf("claim from the outbox: %w", err)
	}
	return taken, nil
}

// outcome says what became of the rows of a batch.
type outcome struct {
	acked   []claimed // in the stream
	kept    []claimed // not published, or nobody knows: to be tried again
	refused []claimed // JetStream will not have them as they are
	err     error     // why rows were kept
}

// publish sends all rows before it waits for the first ack.
func (l *lane) publish(ctx context.Context, rows []claimed) outcome {
	var out outcome
	futures := make([]jetstream.PubAckFuture, len(rows))
	for i, row := range rows {
		future, err := l.relay.conn.JS().PublishAsync(row.Subject, row.Payload, jetstream.WithMsgID(row.ID.String()))
		if err != nil {
			out.add(l.relay, row, err)
			if out.err != nil { // the connection is gone: the rest would go the same way
				out.kept = append(out.kept, rows[i+1:]...)
				break
			}
			continue
		}
		futures[i] = future
	}
	deadline, cancel := context.WithTimeout(ctx, ackWait)
	defer cancel()
	for i, future := range futures {
		if future == nil {
			continue
		}
		if _, err := natsx.Acknowledged(deadline, future); err != nil {
			out.add(l.relay, rows[i], err)
			continue
		}
		out.acked = append(out.acked, rows[i])
	}
	return out
}

// inProcess is JetStream's answer to an id that it has and has not yet told its replicas of.
const inProcess jetstream.ErrorCode = 10158

// add sorts a failure: an answer about this message, or one (a stream without room) that every
// message would get now, or no answer yet.
func (o *outcome) add(r *Relay, row claimed, err error) {
	var answer *jetstream.APIError
	aboutIt := errors.As(err, &answer) && answer.Code < http.StatusInternalServerError && answer.ErrorCode != inProcess
	if aboutIt || errors.Is(err, nats.ErrMaxPayload) || errors.Is(err, nats.ErrBadSubject) {
		r.log.Error("jetstream refuses a message; it waits and is tried again",
			slog.Any("event_id", row.ID), slog.String("subject", row.Subject), slog.Any("error", err))
		o.refused = append(o.refused, row)
		return
	}
	o.kept = append(o.kept, row)
	o.err = fmt.Errorf("%w: %w", errUnreachable, err)
}

// settle deletes and gives back. What it cannot write is claimed until the lease ends, and then
// published again, which the stream's window for duplicates makes harmless.
func (l *lane) settle(ctx context.Context, out outcome) error {
	ctx, cancel := context.WithTimeout(ctx, sqlTimeout)
	defer cancel()
	var errs []error
	exec := func(rows []claimed, sql string, args ...any) {
		if len(rows) == 0 {
			return
		}
		if _, err := l.relay.db.Exec(ctx, sql, args...); err != nil {
			errs = append(errs, fmt.Errorf("settle the outbox: %w", err))
		}
	}
	ids, _ := columns(out.acked)
	exec(out.acked, l.relay.outbox.sql.remove, ids)
	ids, untils := columns(out.kept)
	exec(out.kept, l.relay.outbox.sql.release, ids, untils)
	ids, untils = columns(out.refused)
	exec(out.refused, l.relay.outbox.sql.postpone, ids, untils, postponement)
	return errors.Join(errs...)
}

func columns(rows []claimed) (ids []uuid.UUID, untils []time.Time) {
	ids, untils = make([]uuid.UUID, len(rows)), make([]time.Time, len(rows))
	for i, row := range rows {
		ids[i], untils[i] = row.ID, row.until
	}
	return ids, untils
}
