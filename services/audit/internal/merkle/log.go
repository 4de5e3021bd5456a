// Package merkle answers questions about the audit trail as a transparency log:
// its checkpoint, the proof that an event is a leaf of it, the proof that it only
// grew, and its tiles (C2SP tlog-tiles), from which anybody can compute the rest.
// It reads; leaves are added where events are stored. It must not decide who may
// ask, and it vouches for nothing: whoever verifies needs the public key of the log
// and not this package's word.
package merkle

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/auditlog"
	"github.com/sentryagent/agentidp/pkg/together"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

// Head is the newest checkpoint of the log.
type Head struct {
	Size   int64
	Root   tlog.Hash
	Signed []byte // the signed note; empty while the log is
}

// Leaf is a stored event and its place in the log.
type Leaf struct {
	Index     int64
	Timestamp time.Time
	Payload   []byte // as published
}

// Store keeps the log.
type Store interface {
	Head(ctx context.Context) (Head, error)
	// Tiles returns the hashes in tiles, in the order asked for; nil for a tile that
	// is not there. A tile has all hashes that are there, whatever width was asked.
	Tiles(ctx context.Context, tiles []tlog.Tile) ([][]byte, error)
	// LeafOf returns the leaf of an event, or trail.ErrNotFound.
	LeafOf(ctx context.Context, eventID uuid.UUID) (Leaf, error)
	// Leaves returns the events that are stored as the leaves from first on, at most
	// n, in the order of their indexes. What retention has removed is left out.
	Leaves(ctx context.Context, first int64, n int) ([]Leaf, error)
}

// Published finds the checkpoint that is given out where witnesses sign; ok is false
// where there is none, and then it is the newest head.
type Published func(ctx context.Context) (c auditlog.Checkpoint, signed []byte, ok bool, err error)

// Config is what a Log works with; every field but Published is required.
type Config struct {
	Store  Store
	Signer note.Signer // signs the checkpoint of a log without leaves
	Window trail.Window
	Clock  func() time.Time

	Published Published // nil where no witnesses sign
}

// Log answers questions about the log of a store.
type Log struct {
	Config

	public *together.Trips[struct{}, answer]
}

// New returns a Log.
func New(cfg Config) *Log {
	cfg.Store = share(cfg.Store)
	l := &Log{Config: cfg}
	l.public = once(l.readPublic)
	return l
}

// Newest is the signed note of the newest head, as the log alone signed it.
func (l *Log) Newest(ctx context.Context) ([]byte, error) {
	head, err := l.head(ctx)
	return head.Signed, err
}

// Checkpoint is the signed note to give out.
func (l *Log) Checkpoint(ctx context.Context) ([]byte, error) {
	head, err := l.Public(ctx)
	return head.Signed, err
}

// Public is the head to give out: it never becomes smaller, whichever replica is
// asked. With witnesses it is what they have signed, or a little behind the newest
// one; without, it is the newest one.
func (l *Log) Public(ctx context.Context) (Head, error) {
	a, err := l.public.Ask(ctx, struct{}{})
	return a.head, cmp.Or(err, a.err)
}

func (l *Log) readPublic(ctx context.Context) (Head, error) {
	if l.Published != nil {
		c, signed, ok, err := l.Published(ctx)
		if err != nil || ok {
			return Head{Size: c.Size, Root: c.Root, Signed: signed}, err
		}
	}
	return l.head(ctx)
}

// covering is the head to give out if it covers a leaf, and else the newest one.
func (l *Log) covering(ctx context.Context, leaf int64) (Head, error) {
	head, err := l.Public(ctx)
	if err == nil && head.Size <= leaf {
		head, err = l.head(ctx)
	}
	return head, err
}

func (l *Log) head(ctx context.Context) (Head, error) {
	head, err := l.Store.Head(ctx)
	if err != nil || len(head.Signed) > 0 {
		return head, err
	}
	head.Signed, err = auditlog.Sign(auditlog.Checkpoint{Origin: l.Signer.Name(), Size: head.Size, Root: head.Root}, l.Signer)
	return head, err
}

// Prove shows that an event is in the log. It answers AUDIT_EVENT_NOT_FOUND for
// one that is not there, or outside of the retention window.
func (l *Log) Prove(ctx context.Context, eventID uuid.UUID) (auditlog.Proof, error) {
	stored, err := l.Store.LeafOf(ctx, eventID)
	if errors.Is(err, trail.ErrNotFound) || err == nil && !l.Window.Shows(stored.Timestamp, l.Clock()) {
		return auditlog.Proof{}, trail.NotFound()
	} else if err != nil {
		return auditlog.Proof{}, err
	}
	leaf, err := auditlog.Leaf(stored.Payload)
	if err != nil {
		return auditlog.Proof{}, fmt.Errorf("the leaf of event %s: %w", eventID, err)
	}
	head, err := l.covering(ctx, stored.Index) // after the event was found, so one covers it
	if err != nil {
		return auditlog.Proof{}, err
	}
	if stored.Index >= head.Size {
		return auditlog.Proof{}, fmt.Errorf("event %s is stored as leaf %d of a log of %d", eventID, stored.Index, head.Size)
	}
	hashes, err := tlog.ProveRecord(head.Size, stored.Index, l.Hashes(ctx))
	if err != nil {
		return auditlog.Proof{}, fmt.Errorf("prove leaf %d: %w", stored.Index, err)
	}
	return auditlog.Proof{
		LeafIndex: stored.Index, TreeSize: head.Size, Hashes: present(hashes), Checkpoint: string(head.Signed),
		Leaf: string(leaf), LeafHash: auditlog.HashLeaf(leaf),
	}, nil
}

// Consistency shows that the tree of from leaves is the beginning of that of to
// leaves; of the newest head where to is nil. It answers VALIDATION_ERROR for sizes
// the log never had.
func (l *Log) Consistency(ctx context.Context, from int64, to *int64) (auditlog.Consistency, error) {
	head, err := l.head(ctx)
	if err != nil {
		return auditlog.Consistency{}, err
	}
	if to == nil {
		to = &head.Size
	}
	var wrong apperr.Fields
	if from > *to {
		wrong.Add("from", "must not be greater than to")
	}
	if *to > head.Size {
		wrong.Add("to", fmt.Sprintf("must not be greater than the size of the log, %d", head.Size))
	}
	if err := wrong.Err(); err != nil {
		return auditlog.Consistency{}, err
	}
	answer := auditlog.Consistency{From: from, To: *to, Hashes: []tlog.Hash{}}
	if from == 0 || from == *to { // nothing to prove (RFC 6962 section 2.1.2)
		return answer, nil
	}
	hashes, err := tlog.ProveTree(*to, from, l.Hashes(ctx))
	if err != nil {
		return auditlog.Consistency{}, fmt.Errorf("prove the tree of %d in that of %d: %w", from, *to, err)
	}
	answer.Hashes = present(hashes)
	return answer, nil
}

// present makes an empty proof an empty array on the wire.
func present(hashes []tlog.Hash) []tlog.Hash { return append([]tlog.Hash{}, hashes...) }
