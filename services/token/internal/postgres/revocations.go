package postgres

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/outbox"
	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/pkg/revocation"
	"github.com/sentryagent/agentidp/services/token/internal/hydration"
	"github.com/sentryagent/agentidp/services/token/internal/issue"
)

const (
	sqlRevocationInsert = "-- name: revocation_insert\n" + `
INSERT INTO token.revocations (jti, agent_id, expires_at, revoked_at) VALUES ($1, $2, $3, statement_timestamp())
ON CONFLICT (jti) DO NOTHING`

	sqlKept = "-- name: revocation_check\n" + `
SELECT EXISTS (SELECT FROM token.revocations WHERE jti = $1), cutoff.revision, cutoff.blocked, cutoff.valid_after
FROM (SELECT) AS token LEFT JOIN token.agent_cutoffs AS cutoff ON cutoff.agent_id = $2`

	sqlRevocationsPage = "-- name: revocations_page\n" + `
SELECT jti, expires_at FROM token.revocations
WHERE expires_at > $1 AND jti > $2 ORDER BY jti LIMIT $3`

	sqlRevocationsRecent = "-- name: revocations_recent\n" + `
SELECT jti, expires_at FROM token.revocations WHERE revoked_at > statement_timestamp() - $1::interval`

	// Of replicas that come at the same time one deletes, so that none waits for another's rows.
	sqlRevocationsPurge = "-- name: revocations_purge\n" + `
DELETE FROM token.revocations
WHERE (SELECT pg_try_advisory_xact_lock(hashtextextended('token.revocations', 0)))
  AND jti IN (SELECT jti FROM token.revocations WHERE expires_at < $1 ORDER BY expires_at LIMIT $2)`

	sqlCutoffUpsert = "-- name: agent_cutoff_upsert\n" + `
INSERT INTO token.agent_cutoffs AS old (agent_id, revision, blocked, valid_after, recorded_at)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (agent_id) DO UPDATE
SET revision = excluded.revision, blocked = excluded.blocked,
    valid_after = GREATEST(old.valid_after, excluded.valid_after), recorded_at = excluded.recorded_at
WHERE old.revision < excluded.revision`
)

// Revocations is the truth about which tokens are refused before they expire.
type Revocations struct {
	db     *pgdb.DB
	outbox *outbox.Outbox
}

var (
	_ issue.RevocationStore = (*Revocations)(nil)
	_ hydration.Store       = (*Revocations)(nil)
)

// NewRevocations makes the store; events of revocations leave through box.
func NewRevocations(db *pgdb.DB, box *outbox.Outbox) *Revocations {
	return &Revocations{db: db, outbox: box}
}

// Revoke stores the revocation and its event together, once per token.
func (s *Revocations) Revoke(ctx context.Context, revoked issue.Revocation, event auditevent.Event) error {
	message, err := event.Message()
	if err != nil {
		return err
	}
	return pgdb.Fault(s.db.WithTx(ctx, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, sqlRevocationInsert, revoked.TokenID, revoked.AgentID, revoked.ExpiresAt)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		return s.outbox.Append(ctx, tx, message)
	}))
}

// Kept reads whether the token is revoked, and the newest cutoff of its agent that has come; the zero one if none has.
func (s *Revocations) Kept(ctx context.Context, tokenID, agentID uuid.UUID) (revoked bool, cutoff revocation.Cutoff, err error) {
	var (
		revision   *int64
		blocked    *bool
		validAfter *time.Time
	)
	if err := s.db.QueryRow(ctx, sqlKept, tokenID, agentID).Scan(&revoked, &revision, &blocked, &validAfter); err != nil {
		return false, revocation.Cutoff{}, pgdb.Fault(err)
	}
	if revision == nil {
		return revoked, revocation.Cutoff{}, nil
	}
	return revoked, revocation.Cutoff{AgentID: agentID, Revision: *revision, Blocked: *blocked, ValidAfter: *validAfter}, nil
}

// RevocationsAfter reads revocations of tokens that expire after the given time, in
// the order of their ids, from after the given id on.
func (s *Revocations) RevocationsAfter(ctx context.Context, expiring time.Time, after uuid.UUID, limit int) ([]revocation.Revoked, error) {
	return s.revoked(ctx, sqlRevocationsPage, expiring, after, limit)
}

// RevokedWithin reads the revocations that were stored within the time before now, by the database's clock.
func (s *Revocations) RevokedWithin(ctx context.Context, lately time.Duration) ([]revocation.Revoked, error) {
	return s.revoked(ctx, sqlRevocationsRecent, lately)
}

func (s *Revocations) revoked(ctx context.Context, query string, args ...any) ([]revocation.Revoked, error) {
	rows, err := s.db.Query(ctx, query, args...)
	if err != nil {
		return nil, pgdb.Fault(err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (revocation.Revoked, error) {
		var jti uuid.UUID
		var revoked revocation.Revoked
		err := row.Scan(&jti, &revoked.ExpiresAt)
		revoked.TokenID = jti.String()
		return revoked, err
	})
	return found, pgdb.Fault(err)
}

// RecordCutoff keeps the cutoff, unless one with the same or a higher revision is kept already.
func (s *Revocations) RecordCutoff(ctx context.Context, cutoff revocation.Cutoff, at time.Time) error {
	_, err := s.db.Exec(ctx, sqlCutoffUpsert, cutoff.AgentID, cutoff.Revision, cutoff.Blocked, cutoff.ValidAfter, at)
	return pgdb.Fault(err)
}

// Purge deletes at most so many that do not count any more; none while another replica is at it.
func (s *Revocations) Purge(ctx context.Context, now time.Time, limit int) (deleted int64, err error) {
	tag, err := s.db.Exec(ctx, sqlRevocationsPurge, now.Add(-revocation.Margin), limit)
	return tag.RowsAffected(), pgdb.Fault(err)
}
