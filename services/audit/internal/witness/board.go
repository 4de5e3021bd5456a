package witness

import (
	"context"
	"sync/atomic"

	"golang.org/x/mod/sumdb/note"

	"github.com/sentryagent/agentidp/pkg/auditlog"
)

// Board is where the published checkpoint is read, at every replica of a log that
// has witnesses. What it answers never becomes smaller, whichever replica answers.
type Board struct {
	Log      Log
	Store    Store
	Verifier note.Verifier // of the log's own key
	begun    atomic.Bool
}

// Published is the published checkpoint. ok is false where there is none that the
// log's key signed: in a log without leaves, and for the moment after a change of
// the key or the restoration of a backup.
func (b *Board) Published(ctx context.Context) (c auditlog.Checkpoint, signed []byte, ok bool, err error) {
	if err := b.begin(ctx); err != nil {
		return auditlog.Checkpoint{}, nil, false, err
	}
	published, err := b.Store.Published(ctx)
	if err != nil {
		return auditlog.Checkpoint{}, nil, false, err
	}
	if c, _, err = auditlog.Open(published.Signed, b.Verifier); err != nil || c.Size != published.Size {
		return auditlog.Checkpoint{}, nil, false, nil //nolint:nilerr // as told above
	}
	return c, published.Signed, true, nil
}

// begin has this replica begin behind what was given out before. Where nobody talks
// to witnesses, there may have been none yet, and heads were given out; where
// nothing was published, no head must be given out that is not.
func (b *Board) begin(ctx context.Context) error {
	if b.begun.Load() {
		return nil
	}
	signed, err := b.Log.Newest(ctx)
	if err != nil {
		return err
	}
	head, _, err := auditlog.Open(signed, b.Verifier)
	if err != nil || head.Size == 0 {
		return nil //nolint:nilerr // of a key of before, until the next leaf
	}
	if err := b.Store.Begin(ctx, head.Size, signed); err != nil {
		return err
	}
	b.begun.Store(true)
	return nil
}
