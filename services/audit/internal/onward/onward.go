// Package onward publishes stored events, in the order of the log, on a stream for
// those who forward them to other systems. It is a copy for their convenience: the
// stream is bounded, and whoever needs every event takes an export. One replica does
// it at a time; what that one has stored itself it need not read again. It must hold up
// nothing, and knows no SQL.
package onward

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sentryagent/agentidp/pkg/idle"
	"github.com/sentryagent/agentidp/pkg/natsx"
	"github.com/sentryagent/agentidp/services/audit/internal/export"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
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
type Publisher struct {
	Config
	recent recent
}

// New returns a Publisher.
func New(cfg Config) *Publisher { return &Publisher{Config: cfg} }

// Stored tells of events that this replica has committed as the leaves from first on.
func (p *Publisher) Stored(first int64, events []trail.Delivery) {
	leaves := make([]leaf, len(events))
	for i, event := range events {
		leaves[i] = leafOf(first+int64(i), event)
	}
	p.recent.add(leaves)
}

// Run publishes until ctx ends, gives its turn to the other replicas, and then
// returns nil. It needs neither NATS nor
// Postgres to be there, and goes on after an outage where it was.
func (p *Publisher) Run(ctx context.Context) error {
	defer p.release(ctx)
	declared := false
	for wait := look; ctx.Err() == nil; _ = idle.For(ctx, wait) {
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
	if err != nil || !ok {
		// Another replica publishes them; or the database that comes back may know less than was stored.
		p.recent.clear()
		return false, err
	}
	if due.Next >= due.Size {
		return false, nil
	}
	leaves := p.recent.take(due.Next, min(pageEvents, due.Size-due.Next))
	end := due.Next + int64(len(leaves))
	if len(leaves) == 0 {
		if leaves, end, err = p.read(ctx, due.Next, min(due.Next+pageEvents, due.Size)); err != nil {
			return false, err
		}
	}
	publishing, cancel := context.WithTimeout(ctx, publishFor)
	defer cancel()
	if err := p.publish(publishing, leaves); err != nil {
		return false, err
	}
	ok, err = p.Log.Advance(ctx, p.Holder, due.Next, end)
	return ok && end < due.Size, err
}

// read are the events of the leaves from first on, and before which leaf they end: at
// end, or earlier if there are more rows than leaves, because somebody added some.
func (p *Publisher) read(ctx context.Context, first, end int64) ([]leaf, int64, error) {
	rows, err := p.page(ctx, first, end)
	if err != nil {
		return nil, 0, err
	}
	if len(rows) == pageEvents {
		end = rows[len(rows)-1].Index + 1
	}
	leaves := make([]leaf, 0, len(rows))
	for _, row := range rows {
		event := trail.Receive(trail.Origin{}, row.Payload)
		if event.Reject != "" {
			// Somebody changed what is stored. An export shows it; here it must not keep back the rest.
			p.Logger.ErrorContext(ctx, "stored audit event is none",
				slog.Int64("leaf_index", row.Index), slog.String("error", event.Reject))
			continue
		}
		leaves = append(leaves, leafOf(row.Index, event))
	}
	return leaves, end, nil
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
