// Package merkle answers questions about the audit trail as a transparency log:
// its checkpoint, the proof that an event is a leaf of it, the proof that it only
// grew, and its tiles (C2SP tlog-tiles), from which anybody can compute the rest.
// It reads; leaves are added where events are stored. It must not decide who may
// ask, and it vouches for nothing: whoever verifies needs the public key of the log
// and not this package's word.
package merkle

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/auditlog"
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

// Cosigned finds the newest checkpoint that witnesses have signed, for a log of so
// many leaves; ok is false where there is none to be preferred to the head.
type Cosigned func(ctx context.Context, newest int64) (c auditlog.Checkpoint, signed []byte, ok bool, err error)

// Config is what a Log works with; every field but Cosigned is required.
type Config struct {
	Store  Store
	Signer note.Signer // signs the checkpoint of a log without leaves
	Window trail.Window
	Clock  func() time.Time

	Cosigned Cosigned // nil where no witnesses sign
}

// Log answers questions about the log of a store.
type Log struct {
	Config
}

// New returns a Log.
func New(cfg Config) *Log { return &Log{Config: cfg} }

// Newest is the signed note of the newest head, as the log alone signed it.
func (l *Log) Newest(ctx context.Context) ([]byte, error) {
	head, err := l.head(ctx)
	return head.Signed, err
}

// Checkpoint is the signed note to give out: the newest that witnesses have signed,
// or else of the newest head.
func (l *Log) Checkpoint(ctx context.Context) ([]byte, error) {
	head, err := l.head(ctx)
	if err != nil {
		return nil, err
	}
	head, err = l.prefer(ctx, head, 0)
	return head.Signed, err
}

// prefer gives the head that witnesses have signed, if it has more than least leaves.
func (l *Log) prefer(ctx context.Context, head Head, least int64) (Head, error) {
	if l.Cosigned == nil {
		return head, nil
	}
	c, signed, ok, err := l.Cosigned(ctx, head.Size)
	if err != nil || !ok || c.Size <= least {
		return head, err
	}
	return Head{Size: c.Size, Root: c.Root, Signed: signed}, nil
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
	if errors.Is(err, trail.ErrNotFound) || err == nil && stored.Timestamp.Before(l.Window.Since(l.Clock())) {
		return auditlog.Proof{}, apperr.New(apperr.AuditEventNotFound, "Audit event with the specified ID was not found.")
	} else if err != nil {
		return auditlog.Proof{}, err
	}
	leaf, err := auditlog.Leaf(stored.Payload)
	if err != nil {
		return auditlog.Proof{}, fmt.Errorf("the leaf of event %s: %w", eventID, err)
	}
	head, err := l.head(ctx) // after the event was found, so it covers it
	if err != nil {
		return auditlog.Proof{}, err
	}
	if stored.Index >= head.Size {
		return auditlog.Proof{}, fmt.Errorf("event %s is stored as leaf %d of a log of %d", eventID, stored.Index, head.Size)
	}
	if head, err = l.prefer(ctx, head, stored.Index); err != nil {
		return auditlog.Proof{}, err
	}
	hashes, err := tlog.ProveRecord(head.Size, stored.Index, l.hashes(ctx))
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
	hashes, err := tlog.ProveTree(*to, from, l.hashes(ctx))
	if err != nil {
		return auditlog.Consistency{}, fmt.Errorf("prove the tree of %d in that of %d: %w", from, *to, err)
	}
	answer.Hashes = present(hashes)
	return answer, nil
}

// present makes an empty proof an empty array on the wire.
func present(hashes []tlog.Hash) []tlog.Hash { return append([]tlog.Hash{}, hashes...) }
