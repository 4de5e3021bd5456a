// Package onward publishes stored events, in the order of the log, on a stream for
// those who forward them to other systems. It is a copy for their convenience: the
// stream is bounded, and whoever needs every event takes an export. One replica does
// it at a time. It must hold up nothing, and knows no SQL.
package onward

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sentryagent/agentidp/pkg/auditlog"
	"github.com/sentryagent/agentidp/pkg/natsx"
	"github.com/sentryagent/agentidp/services/audit/internal/export"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

// Headers of a message, besides Nats-Msg-Id, which is the event's id.
const (
	HeaderLeafIndex = "Audit-Leaf-Index"
	HeaderLeafHash  = "Audit-Leaf-Hash" // base64
)

const (
	pageEvents = 500
	// publishFor bounds one page, well within the lease: a replica that another one
	// has followed does not go on.
	publishFor = 5 * time.Second
	lease      = 15 * time.Second
	// recently is how far back the events of a page are looked for first.
	recently = 48 * time.Hour
	// releaseFor bounds how long the end of a replica waits to give its turn back.
	releaseFor = time.Second
	// look is how often a replica looks for new events, or for its turn.
	look      = 200 * time.Millisecond
	lastRetry = 5 * time.Second
)

// Log is where the events are, and how far they were published.
type Log interface {
	// Lease makes holder the one who publishes for two thirds of until at least, and
	// says what is to be published; ok is false while another one is.
	Lease(ctx context.Context, holder uuid.UUID, until time.Duration) (due Due, ok bool, err error)
	// Release ends the lease of holder, if it has one.
	Release(ctx context.Context, holder uuid.UUID) error
	// Advance sets which leaf is next, if it was from until now and holder still
	// publishes.
	Advance(ctx context.Context, holder uuid.UUID, from, next int64) (ok bool, err error)
	// Rows are events that match filter, any where it is nil, of the leaves from first
	// to before end, in their order and at most limit.
	Rows(ctx context.Context, filter *trail.Filter, first, end int64, limit int) ([]export.Row, error)
}

// Due are the leaves that are to be published: from Next to before Size.
type Due struct{ Next, Size int64 }

// Config is what a Publisher works with; every field is required.
type Config struct {
	Log      Log
	Conn     *natsx.Conn
	MaxBytes int64 // of the stream
	Holder   uuid.UUID
	Logger   *slog.Logger
	Clock    func() time.Time
}

// Publisher is the part of one replica.
type Publisher struct{ Config }

// New returns a Publisher.
func New(cfg Config) *Publisher { return &Publisher{Config: cfg} }

// Run publishes until ctx ends, gives its turn to the other replicas, and then
// returns nil. It needs neither NATS nor
// Postgres to be there, and goes on after an outage where it was.
func (p *Publisher) Run(ctx context.Context) error {
	defer p.release(ctx)
	declared := false
	for wait := look; ctx.Err() == nil; pause(ctx, wait) {
		if !declared {
			if p.Conn.DeclareOnward(ctx, p.MaxBytes) != nil {
				return nil // only when ctx has ended
			}
			declared = true
		}
		more, err := p.turn(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			p.Logger.WarnContext(ctx, "stored audit events cannot be published onward, will try again", slog.Any("error", err))
			wait = retry(wait)
			// Where the server lost the stream, nobody else makes it again.
			declared = !errors.Is(err, jetstream.ErrNoStreamResponse) && !errors.Is(err, nats.ErrNoResponders)
		case more:
			wait = 0
		default:
			wait = look
		}
	}
	return nil
}

// release gives the turn back. Where that fails, the lease ends by itself.
func (p *Publisher) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseFor)
	defer cancel()
	if err := p.Log.Release(ctx, p.Holder); err != nil {
		p.Logger.WarnContext(ctx, "the turn to publish stored audit events onward could not be given back", slog.Any("error", err))
	}
}

// retry is the pause after a failure, given the pause before it, which is none
// where a page was full: twice as long, and never less than between two looks.
func retry(last time.Duration) time.Duration {
	return min(max(2*last, look), lastRetry)
}

// turn publishes the next page, and says whether more is waiting.
func (p *Publisher) turn(ctx context.Context) (more bool, err error) {
	due, ok, err := p.Log.Lease(ctx, p.Holder, lease)
	if err != nil || !ok || due.Next >= due.Size {
		return false, err
	}
	end := min(due.Next+pageEvents, due.Size)
	rows, err := p.page(ctx, due.Next, end)
	if err != nil {
		return false, err
	}
	if len(rows) == pageEvents { // more rows than leaves, if somebody added some
		end = rows[len(rows)-1].Index + 1
	}
	publishing, cancel := context.WithTimeout(ctx, publishFor)
	defer cancel()
	if err := p.publish(publishing, rows); err != nil {
		return false, err
	}
	ok, err = p.Log.Advance(ctx, p.Holder, due.Next, end)
	return ok && end < due.Size, err
}

// page are the events of leaves. It looks among those of the last days first: as a rule all
// are of these, and a statement over all days takes longer with each of them.
func (p *Publisher) page(ctx context.Context, first, end int64) ([]export.Row, error) {
	recent := p.Clock().Add(-recently)
	rows, err := p.Log.Rows(ctx, &trail.Filter{From: &recent}, first, end, pageEvents)
	if err == nil && int64(len(rows)) < end-first {
		rows, err = p.Log.Rows(ctx, nil, first, end, pageEvents)
	}
	return rows, err
}

// publish sends events and waits until all are stored. What was sent before a
// failure comes again, and is recognised by its id.
func (p *Publisher) publish(ctx context.Context, rows []export.Row) error {
	acks := make([]jetstream.PubAckFuture, 0, len(rows))
	for _, row := range rows {
		message, err := onward(row)
		if err != nil {
			// Somebody changed what is stored. An export shows it; here it must not keep back the rest.
			p.Logger.ErrorContext(ctx, "stored audit event is none", slog.Int64("leaf_index", row.Index), slog.Any("error", err))
			continue
		}
		ack, err := p.Conn.JS().PublishMsgAsync(message)
		if err != nil {
			return fmt.Errorf("publish leaf %d: %w", row.Index, err)
		}
		acks = append(acks, ack)
	}
	for _, ack := range acks {
		select {
		case <-ack.Ok():
		case err := <-ack.Err():
			return fmt.Errorf("publish: %w", err)
		case <-ctx.Done():
			return fmt.Errorf("publish: %w", ctx.Err())
		}
	}
	return nil
}

// onward is the message of an event: its leaf, byte for byte.
func onward(row export.Row) (*nats.Msg, error) {
	event, err := trail.Decode(row.Payload)
	if err != nil {
		return nil, err
	}
	leaf, err := auditlog.Leaf(row.Payload)
	if err != nil {
		return nil, err
	}
	return &nats.Msg{
		Subject: "auditlog." + event.Service + "." + event.Action,
		Header: nats.Header{
			jetstream.MsgIDHeader: {event.ID.String()},
			HeaderLeafIndex:       {strconv.FormatInt(row.Index, 10)},
			HeaderLeafHash:        {auditlog.HashLeaf(leaf).String()},
		},
		Data: leaf,
	}, nil
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
