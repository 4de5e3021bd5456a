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

// A row is written for each renewal, so there is none while two thirds of the lease
// are left.
const sqlHold = `-- name: witnesses_hold
WITH held AS (
  UPDATE audit.cosigned SET holder = $1, held_until = now() + $2::interval
  WHERE held_until < now() OR holder = $1 AND held_until < now() + $2::interval * (2.0 / 3)
  RETURNING holder)
SELECT count(*) > 0 FROM (SELECT FROM held UNION ALL
  SELECT FROM audit.cosigned WHERE holder = $1 AND held_until >= now() + $2::interval * (2.0 / 3)) mine`

const sqlRelease = `-- name: witnesses_release
UPDATE audit.cosigned SET holder = NULL, held_until = '-infinity' WHERE holder = $1`

// Release lets another replica talk to witnesses at once.
func (w *Witnesses) Release(ctx context.Context, holder uuid.UUID) error {
	_, err := w.db.Exec(ctx, sqlRelease, holder)
	return pgdb.Fault(err)
}

// Hold makes holder the one replica that talks to witnesses. The lease is a row
// and not a lock, as no connection is held while others are asked.
func (w *Witnesses) Hold(ctx context.Context, holder uuid.UUID, lease time.Duration) (bool, error) {
	var held bool
	err := w.db.QueryRow(ctx, sqlHold, holder, lease).Scan(&held)
	return held, pgdb.Fault(err)
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
ON CONFLICT (key) DO UPDATE SET size = excluded.size, cosignature = excluded.cosignature, signed_at = now()
WHERE witnesses.size <= excluded.size OR witnesses.size > (SELECT size FROM audit.tree)`

// Saw keeps what a witness signed, unless it signed more leaves before: a replica that was held up comes late with it.
// More than the log has was of before a backup was restored, and gives way.
func (w *Witnesses) Saw(ctx context.Context, key string, seen witness.Seen) error {
	_, err := w.db.Exec(ctx, sqlSaw, key, seen.Size, string(seen.Line))
	return pgdb.Fault(err)
}

const (
	// What is published is never smaller than it was. It may be more than the log has
	// where the log was restored from a backup, and then it gives way.
	sqlPublish = `-- name: checkpoint_publish
UPDATE audit.cosigned SET size = $1, checkpoint = $2, cosigned_at = now()
WHERE size <= $1 OR size > (SELECT size FROM audit.tree)`

	sqlPublishBare = `-- name: checkpoint_publish_bare
UPDATE audit.cosigned SET size = $1, checkpoint = $2
WHERE size < $1 OR size > (SELECT size FROM audit.tree)`

	sqlBegin = `-- name: checkpoint_begin
UPDATE audit.cosigned SET size = $1, checkpoint = $2
WHERE size < $1 AND (held_until < now() OR checkpoint = '')`

	sqlPublished = `-- name: checkpoint_published
SELECT size, checkpoint FROM audit.cosigned WHERE checkpoint <> '' AND size <= (SELECT size FROM audit.tree)`
)

// Publish moves the published checkpoint forward to one that witnesses signed.
func (w *Witnesses) Publish(ctx context.Context, size int64, signed []byte) error {
	return w.publish(ctx, sqlPublish, size, signed)
}

// PublishBare moves the published checkpoint forward to a head without witnesses.
func (w *Witnesses) PublishBare(ctx context.Context, size int64, signed []byte) error {
	return w.publish(ctx, sqlPublishBare, size, signed)
}

// Begin is PublishBare where nothing is published yet or no replica talks to witnesses.
func (w *Witnesses) Begin(ctx context.Context, size int64, signed []byte) error {
	return w.publish(ctx, sqlBegin, size, signed)
}

func (w *Witnesses) publish(ctx context.Context, sql string, size int64, signed []byte) error {
	_, err := w.db.Exec(ctx, sql, size, string(signed))
	return pgdb.Fault(err)
}

// Published is the published checkpoint; empty where there is none.
func (w *Witnesses) Published(ctx context.Context) (witness.Published, error) {
	rows, err := w.db.Query(ctx, sqlPublished)
	if err != nil {
		return witness.Published{}, pgdb.Fault(err)
	}
	var published witness.Published
	var signed string
	_, err = pgx.ForEachRow(rows, []any{&published.Size, &signed}, func() error {
		published.Signed = []byte(signed)
		return nil
	})
	return published, pgdb.Fault(err)
}
