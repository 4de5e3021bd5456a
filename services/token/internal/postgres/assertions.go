package postgres

import (
	"context"
	"crypto/sha256"
	"time"

	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/services/token/internal/issue"
)

const (
	sqlAssertionUse = "-- name: assertion_use\n" + `
INSERT INTO token.assertion_ids (client_id, jti_hash, expires_at) VALUES ($1, $2, $3)
ON CONFLICT DO NOTHING`

	// Of replicas that come at the same time one deletes, so that none waits for another's rows.
	sqlAssertionsPurge = "-- name: assertions_purge\n" + `
DELETE FROM token.assertion_ids
WHERE (SELECT pg_try_advisory_xact_lock(hashtextextended('token.assertion_ids', 0)))
  AND (client_id, jti_hash) IN (
    SELECT client_id, jti_hash FROM token.assertion_ids WHERE expires_at < $1 ORDER BY expires_at LIMIT $2)`
)

// AssertionIDs remembers which client assertions were used.
type AssertionIDs struct{ db *pgdb.DB }

var _ issue.AssertionIDs = (*AssertionIDs)(nil)

// NewAssertionIDs makes the store.
func NewAssertionIDs(db *pgdb.DB) *AssertionIDs { return &AssertionIDs{db: db} }

// Use notes the use of an assertion. Of all who use the same one, whenever and
// wherever, one is first.
func (s *AssertionIDs) Use(ctx context.Context, clientID uuid.UUID, id string, expiresAt time.Time) (first bool, err error) {
	hash := sha256.Sum256([]byte(id))
	tag, err := s.db.Exec(ctx, sqlAssertionUse, clientID, hash[:], expiresAt)
	if err != nil {
		return false, pgdb.Fault(err)
	}
	return tag.RowsAffected() == 1, nil
}

// keptFor is longer than clocks differ and exp has leeway, so that none comes back.
const keptFor = time.Hour

// Purge deletes at most so many that expired longer ago than they are kept for; none while another replica is at it.
func (s *AssertionIDs) Purge(ctx context.Context, now time.Time, limit int) (deleted int64, err error) {
	tag, err := s.db.Exec(ctx, sqlAssertionsPurge, now.Add(-keptFor), limit)
	return tag.RowsAffected(), pgdb.Fault(err)
}
