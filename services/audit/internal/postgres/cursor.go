package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/services/audit/internal/onward"
)

var _ onward.Log = (*Store)(nil)

const (
	// A row is written for each renewal, so there is none while two thirds of the
	// lease are left. More leaves than the log has were published before a backup was
	// restored: it goes on with those that come now.
	sqlLeaseCursor = `-- name: cursor_lease
WITH leased AS (
  UPDATE audit.cursors SET holder = $1, held_until = now() + $2::interval,
    next_leaf = least(next_leaf, (SELECT size FROM audit.tree))
  WHERE name = 'onward' AND (held_until < now() OR holder = $1 AND held_until < now() + $2::interval * (2.0 / 3))
  RETURNING next_leaf), held AS (
  SELECT next_leaf FROM leased UNION ALL
  SELECT next_leaf FROM audit.cursors WHERE name = 'onward' AND holder = $1 AND held_until >= now() + $2::interval * (2.0 / 3))
SELECT held.next_leaf, tree.size FROM held, audit.tree`

	sqlReleaseCursor = `-- name: cursor_release
UPDATE audit.cursors SET holder = NULL, held_until = '-infinity' WHERE name = 'onward' AND holder = $1`

	sqlAdvanceCursor = `-- name: cursor_advance
UPDATE audit.cursors SET next_leaf = $3 WHERE name = 'onward' AND holder = $1 AND next_leaf = $2`
)

// Lease makes holder the one who publishes events onward for a while; see
// onward.Log.
func (s *Store) Lease(ctx context.Context, holder uuid.UUID, until time.Duration) (due onward.Due, ok bool, err error) {
	err = s.db.QueryRow(ctx, sqlLeaseCursor, holder, until).Scan(&due.Next, &due.Size)
	if errors.Is(err, pgx.ErrNoRows) {
		return onward.Due{}, false, nil
	}
	return due, err == nil, pgdb.Fault(err)
}

// Release lets another one publish at once; see onward.Log.
func (s *Store) Release(ctx context.Context, holder uuid.UUID) error {
	_, err := s.db.Exec(ctx, sqlReleaseCursor, holder)
	return pgdb.Fault(err)
}

// Advance says that the leaves before next were published; see onward.Log.
func (s *Store) Advance(ctx context.Context, holder uuid.UUID, from, next int64) (ok bool, err error) {
	tag, err := s.db.Exec(ctx, sqlAdvanceCursor, holder, from, next)
	return tag.RowsAffected() == 1, pgdb.Fault(err)
}
