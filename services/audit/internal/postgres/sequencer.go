package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/pkg/timeid"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

// maxAhead is how far ahead of the clock an event's time may be. A publisher whose
// clock is wrong by more would have its events shown on top of the list for days.
const maxAhead = 24 * time.Hour

// Sequencing is what a Sequencer works with; every field but Stored is required.
type Sequencing struct {
	DB        *pgdb.DB
	Signer    note.Signer // its name is the origin of the log
	PublicKey string      // the text form of the key that checks what Signer signs
	Window    trail.Window
	Clock     func() time.Time
	// Stored, if it is not nil, is told after the commit of a batch which events, at
	// least one, are the leaves from first on. It must not wait.
	Stored func(first int64, events []trail.Delivery)
}

// Sequencer stores events and is all that writes to the log. An event gets its
// leaf, the tree its hashes, and the head its signature in the transaction that
// stores the event, so none of them is ever there without the others. The
// transaction holds the row audit.tree: of all replicas, one sequences at a time,
// and whoever comes next goes on where the last one committed. It is safe for
// concurrent use.
type Sequencer struct {
	Sequencing
	days days
}

var _ trail.Recorder = (*Sequencer)(nil)

// NewSequencer returns a Sequencer that takes events inside the window only.
func NewSequencer(cfg Sequencing) *Sequencer {
	return &Sequencer{Sequencing: cfg}
}

// Record stores a batch in one transaction: first all events by one statement,
// and where that is refused, once more in parts, so that the row at fault is found
// and the others are stored.
func (s *Sequencer) Record(ctx context.Context, batch []trail.Delivery) ([]trail.Verdict, error) {
	work := append([]trail.Delivery{}, batch...)
	if err := s.judge(ctx, work); err != nil {
		return nil, pgdb.Fault(err)
	}
	if err := s.prepareDays(ctx, work); err != nil {
		return nil, pgdb.Fault(err)
	}
	verdicts, err := s.record(ctx, work, insertAtOnce)
	var refused *pgconn.PgError
	if errors.As(err, &refused) && !errors.Is(err, trail.ErrTorn) && apperr.CodeOf(pgdb.Fault(err)) != apperr.ServiceUnavailable {
		verdicts, err = s.record(ctx, work, s.insertApart)
	}
	if err != nil {
		return nil, pgdb.Fault(err)
	}
	return verdicts, nil
}

const sqlNow = `-- name: database_now
SELECT now()`

// judge rejects what lies outside of the days that are kept, or of those in which
// its id would be looked for. What is rejected does not come again, so the database's
// clock has to agree: one that is wrong would do that to every event.
func (s *Sequencer) judge(ctx context.Context, work []trail.Delivery) error {
	own := s.boundsAt(s.Clock())
	var other bounds // zero until the database was asked
	for i := range work {
		d := &work[i]
		if d.Reject != "" || s.outside(d.Event, own) == "" {
			continue
		}
		if other.newest.IsZero() {
			var now time.Time
			if err := s.DB.QueryRow(ctx, sqlNow).Scan(&now); err != nil {
				return err
			}
			other = s.boundsAt(now)
		}
		d.Reject = s.outside(d.Event, other)
	}
	return nil
}

// bounds are the times between which events can be taken.
type bounds struct{ oldest, newest time.Time }

func (s *Sequencer) boundsAt(now time.Time) bounds {
	return bounds{oldest: s.Window.Oldest(now), newest: now.Add(maxAhead)}
}

// outside is why an event cannot be taken, empty if it can.
func (s *Sequencer) outside(e trail.Event, within bounds) string {
	switch {
	case e.Timestamp.Before(within.oldest):
		return fmt.Sprintf("its day lies before the retention window of %d days", s.Window.Days())
	case e.Timestamp.After(within.newest):
		return "timestamp lies more than a day in the future"
	case drifts(e):
		return "the time in eventId lies more than a day from timestamp"
	}
	return ""
}

// drifts tells whether the id of an event leads to other days than its own. Events
// under one id could then be stored in days that are never searched together.
func drifts(e trail.Event) bool {
	at, has := timeid.Of(e.ID)
	return has && e.Timestamp.Sub(at).Abs() > trail.MaxIDDrift
}

// insert writes new events into the table, from leaf base on and in their order,
// and returns those it wrote. It may queue its statement instead of running it. A
// delivery that turns out to be impossible to store gets its Reject, one that may
// be stored later stays at the verdict Retry.
type insert func(ctx context.Context, tx pgx.Tx, b *pgx.Batch, fresh []*entry, base int64) ([]*entry, error)

// entry is one delivery of a batch on its way.
type entry struct {
	trail.Delivery
	verdict trail.Verdict
}

func (s *Sequencer) record(ctx context.Context, work []trail.Delivery, write insert) ([]trail.Verdict, error) {
	entries := make([]*entry, len(work))
	for i, d := range work {
		entries[i] = &entry{Delivery: d}
	}
	var first int64
	var stored []*entry
	err := s.DB.WithTx(ctx, func(tx pgx.Tx) (err error) {
		first, stored, err = s.sequence(ctx, tx, entries, write)
		return err
	})
	if refusedByGuards(err) {
		err = fmt.Errorf("%w: %w", trail.ErrTorn, err)
	}
	if err != nil {
		return nil, err
	}
	if s.Stored != nil && len(stored) > 0 {
		s.Stored(first, deliveries(stored))
	}
	verdicts := make([]trail.Verdict, len(entries))
	for i, e := range entries {
		verdicts[i] = e.verdict
	}
	return verdicts, nil
}

// refusedByGuards tells whether the database's own guards of head and tiles refused what would be added: it fits what is
// there, unless head and tiles do not fit each other.
func refusedByGuards(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (strings.Contains(pg.Where, "audit.refuse_rewrite()") || strings.Contains(pg.Where, "audit.require_tiles()"))
}

func deliveries(entries []*entry) []trail.Delivery {
	list := make([]trail.Delivery, len(entries))
	for i, e := range entries {
		list[i] = e.Delivery
	}
	return list
}

// sequence does all of a batch in four round trips, begin and commit included, and
// answers which entries become the leaves from first on.
func (s *Sequencer) sequence(
	ctx context.Context, tx pgx.Tx, entries []*entry, write insert,
) (first int64, stored []*entry, err error) {
	fresh, tree, err := s.take(ctx, tx, entries)
	if err != nil {
		return 0, nil, err
	}
	batch := &pgx.Batch{}
	if len(fresh) > 0 {
		first = tree.Size()
		if stored, err = write(ctx, tx, batch, fresh, first); err != nil {
			return 0, nil, err
		}
		hashes := make([]tlog.Hash, len(stored))
		for i, e := range stored {
			e.verdict, hashes[i] = trail.Stored, e.LeafHash
		}
		if err := s.grow(batch, tree, hashes); err != nil {
			return 0, nil, err
		}
	}
	queueDead(batch, entries)
	return first, stored, tx.SendBatch(ctx, batch).Close()
}
