package witness

import (
	"context"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/sentryagent/agentidp/pkg/auditlog"
)

// stale is how long the cosigned checkpoint may be behind the log before the newest
// one is better, though nobody cosigned it.
const stale = time.Minute

// Board is where cosigned checkpoints are read, at every replica.
type Board struct {
	Store    Store
	Verifier note.Verifier // of the log's own key
	Clock    func() time.Time
}

// Cosigned is the newest checkpoint with cosignatures, for a log that has newest
// leaves. ok is false where there is none, or none that is fresh enough.
func (b *Board) Cosigned(ctx context.Context, newest int64) (c auditlog.Checkpoint, signed []byte, ok bool, err error) {
	cosigned, err := b.Store.Cosigned(ctx)
	if err != nil || len(cosigned.Signed) == 0 {
		return auditlog.Checkpoint{}, nil, false, err
	}
	if cosigned.Size > newest || cosigned.Size < newest && b.Clock().Sub(cosigned.At) > stale {
		return auditlog.Checkpoint{}, nil, false, nil
	}
	if c, _, err = auditlog.Open(cosigned.Signed, b.Verifier); err != nil {
		return auditlog.Checkpoint{}, nil, false, nil //nolint:nilerr // of a key of before: the head goes without
	}
	return c, cosigned.Signed, true, nil
}
