package postgres

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/services/audit/internal/witness"
)

// Witnesses keeps what witnesses of the log signed. It is safe for concurrent use.
type Witnesses struct {
	db *pgdb.DB
}

var _ witness.Store = (*Witnesses)(nil)

// NewWitnesses returns a store on db, which connects as the service's role.
func NewWitnesses(db *pgdb.DB) *Witnesses { return &Witnesses{db: db} }

const sqlHold = `-- name: witnesses_hold
UPDATE audit.cosigned SET holder = $1, held_until = now() + $2::interval
WHERE holder = $1 OR held_until < now()`

// Hold makes holder the one replica that talks to witnesses. The lease is a row
// and not a lock, as no connection is held while others are asked.
func (w *Witnesses) Hold(ctx context.Context, holder uuid.UUID, lease time.Duration) (bool, error) {
	tag, err := w.db.Exec(ctx, sqlHold, holder, lease)
	return tag.RowsAffected() == 1, pgdb.Fault(err)
}

const sqlSeen = `-- name: witnesses_seen
SELECT key, size, cosignature FROM audit.witnesses`

// Seen is what each witness signed last, by its key.
func (w *Witnesses) Seen(ctx context.Context) (map[string]witness.Seen, error) {
	rows, err := w.db.Query(ctx, sqlSeen)
	if err != nil {
		return nil, pgdb.Fault(err)
	}
	seen := map[string]witness.Seen{}
	var key, line string
	var size int64
	_, err = pgx.ForEachRow(rows, []any{&key, &size, &line}, func() error {
		seen[key] = witness.Seen{Size: size, Line: []byte(line)}
		return nil
	})
	return seen, pgdb.Fault(err)
}

const sqlSaw = `-- name: witness_saw
INSERT INTO audit.witnesses (key, size, cosignature) VALUES ($1, $2, $3)
ON CONFLICT (key) DO UPDATE SET size = excluded.size, cosignature = excluded.cosignature, signed_at = now()`

// Saw keeps what a witness signed.
func (w *Witnesses) Saw(ctx context.Context, key string, seen witness.Seen) error {
	_, err := w.db.Exec(ctx, sqlSaw, key, seen.Size, string(seen.Line))
	return pgdb.Fault(err)
}

const sqlPublish = `-- name: cosigned_publish
UPDATE audit.cosigned SET size = $1, checkpoint = $2, cosigned_at = now() WHERE size <= $1`

// Publish keeps a cosigned checkpoint, unless a larger one is kept.
func (w *Witnesses) Publish(ctx context.Context, size int64, signed []byte) error {
	_, err := w.db.Exec(ctx, sqlPublish, size, string(signed))
	return pgdb.Fault(err)
}

const sqlCosigned = `-- name: cosigned_get
SELECT size, checkpoint, cosigned_at FROM audit.cosigned WHERE checkpoint <> ''`

// Cosigned is the checkpoint that was published last.
func (w *Witnesses) Cosigned(ctx context.Context) (witness.Cosigned, error) {
	rows, err := w.db.Query(ctx, sqlCosigned)
	if err != nil {
		return witness.Cosigned{}, pgdb.Fault(err)
	}
	var cosigned witness.Cosigned
	var signed string
	_, err = pgx.ForEachRow(rows, []any{&cosigned.Size, &signed, &cosigned.At}, func() error {
		cosigned.Signed = []byte(signed)
		return nil
	})
	return cosigned, pgdb.Fault(err)
}
