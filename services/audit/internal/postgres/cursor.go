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
	sqlLeaseCursor = `-- name: cursor_lease
UPDATE audit.cursors SET holder = $1, held_until = now() + $2::interval
WHERE name = 'onward' AND (holder = $1 OR held_until < now()) RETURNING next_leaf`

	sqlAdvanceCursor = `-- name: cursor_advance
UPDATE audit.cursors SET next_leaf = $3 WHERE name = 'onward' AND holder = $1 AND next_leaf = $2`
)

// Lease makes holder the one who publishes events onward for a while; see
// onward.Log.
func (s *Store) Lease(ctx context.Context, holder uuid.UUID, until time.Duration) (next int64, ok bool, err error) {
	err = s.db.QueryRow(ctx, sqlLeaseCursor, holder, until).Scan(&next)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, false, nil
	}
	return next, err == nil, pgdb.Fault(err)
}

// Advance says that the leaves before next were published; see onward.Log.
func (s *Store) Advance(ctx context.Context, holder uuid.UUID, from, next int64) (ok bool, err error) {
	tag, err := s.db.Exec(ctx, sqlAdvanceCursor, holder, from, next)
	return tag.RowsAffected() == 1, pgdb.Fault(err)
}
