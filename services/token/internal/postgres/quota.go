package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/services/token/internal/quota"
)

const (
	sqlQuotaOpen = "-- name: quota_open\n" + `
INSERT INTO token.quota_usage (agent_id, month, used) VALUES ($1, $2, 0) ON CONFLICT DO NOTHING`

	sqlQuotaUsed = "-- name: quota_used\n" + `SELECT used FROM token.quota_usage WHERE agent_id = $1 AND month = $2`

	// Sorted, so that two replicas never wait for each other's rows in a circle.
	sqlQuotaRaise = "-- name: quota_raise\n" + `
INSERT INTO token.quota_usage AS old (agent_id, month, used)
SELECT agent_id, month, used FROM unnest($1::uuid[], $2::date[], $3::bigint[]) AS seen (agent_id, month, used)
ORDER BY agent_id, month
ON CONFLICT (agent_id, month) DO UPDATE SET used = GREATEST(old.used, excluded.used)
RETURNING agent_id, month, used`

	sqlQuotaTake = "-- name: quota_take\n" + `
INSERT INTO token.quota_usage AS old (agent_id, month, used)
SELECT $1::uuid, $2::date, $3::bigint + 1 WHERE $3::bigint < $4::bigint
ON CONFLICT (agent_id, month) DO UPDATE SET used = GREATEST(old.used, $3::bigint) + 1
WHERE old.used < $4::bigint`

	sqlQuotaGiveBack = "-- name: quota_give_back\n" + `
UPDATE token.quota_usage SET used = used - 1 WHERE agent_id = $1 AND month = $2 AND used > 0`
)

// Quota is the lasting count of tokens per agent and month.
type Quota struct{ db *pgdb.DB }

var _ quota.Store = (*Quota)(nil)

// NewQuota makes the store.
func NewQuota(db *pgdb.DB) *Quota { return &Quota{db: db} }

// Open makes the row of the month; first is false if it was there.
func (s *Quota) Open(ctx context.Context, agentID uuid.UUID, month time.Time) (first bool, err error) {
	tag, err := s.db.Exec(ctx, sqlQuotaOpen, agentID, month)
	if err != nil {
		return false, pgdb.Fault(err)
	}
	return tag.RowsAffected() == 1, nil
}

// Used reads the count; a month without a row has 0.
func (s *Quota) Used(ctx context.Context, agentID uuid.UUID, month time.Time) (int64, error) {
	var used int64
	err := s.db.QueryRow(ctx, sqlQuotaUsed, agentID, month).Scan(&used)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, nil
	}
	return used, pgdb.Fault(err)
}

// Raise makes each count at least what was seen, and answers what they are now.
func (s *Quota) Raise(ctx context.Context, seen []quota.Count) ([]quota.Count, error) {
	agents := make([]uuid.UUID, len(seen))
	months := make([]time.Time, len(seen))
	used := make([]int64, len(seen))
	for i, count := range seen {
		agents[i], months[i], used[i] = count.AgentID, count.Month, count.Used
	}
	rows, err := s.db.Query(ctx, sqlQuotaRaise, agents, months, used)
	if err != nil {
		return nil, pgdb.Fault(err)
	}
	counts, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (quota.Count, error) {
		var count quota.Count
		err := row.Scan(&count.AgentID, &count.Month, &count.Used)
		return count, err
	})
	return counts, pgdb.Fault(err)
}

// Take counts one more token, from at least seen on, if that stays within the limit.
func (s *Quota) Take(ctx context.Context, seen quota.Count, limit int64) (taken bool, err error) {
	tag, err := s.db.Exec(ctx, sqlQuotaTake, seen.AgentID, seen.Month, seen.Used, limit)
	if err != nil {
		return false, pgdb.Fault(err)
	}
	return tag.RowsAffected() == 1, nil
}

// GiveBack counts one token less.
func (s *Quota) GiveBack(ctx context.Context, agentID uuid.UUID, month time.Time) error {
	_, err := s.db.Exec(ctx, sqlQuotaGiveBack, agentID, month)
	return pgdb.Fault(err)
}
