package postgres

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/services/registry/internal/agent"
)

// A row that is there and has not expired stays as it is, and no row is affected. A concurrent registration under the
// same key waits here until the first has ended: then it either finds that one's row, or takes its place.
const sqlRemember = `-- name: idempotency_key_remember
INSERT INTO registry.idempotency_keys AS k (caller_id, idempotency_key, fingerprint, result, expires_at)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT ON CONSTRAINT idempotency_keys_pkey DO UPDATE
SET fingerprint = excluded.fingerprint, result = excluded.result, expires_at = excluded.expires_at
WHERE k.expires_at <= $6`

const sqlRecall = `-- name: idempotency_key_recall
SELECT fingerprint, result FROM registry.idempotency_keys WHERE caller_id = $1 AND idempotency_key = $2`

// remember stores the result of a registration under its key, or returns the result that is stored there already;
// ErrKeyReused if that one had another body.
func remember(ctx context.Context, tx pgx.Tx, key agent.IdempotencyKey, result agent.Agent) (*agent.Agent, error) {
	document, err := json.Marshal(asSnapshot(result))
	if err != nil {
		return nil, fmt.Errorf("encode result: %w", err)
	}
	tag, err := tx.Exec(ctx, sqlRemember, key.Caller, key.Key, key.Fingerprint, document, key.ExpiresAt, key.Now)
	if err != nil {
		return nil, fmt.Errorf("remember idempotency key: %w", err)
	}
	if tag.RowsAffected() == 1 {
		return nil, nil
	}
	var fingerprint, stored []byte
	if err := tx.QueryRow(ctx, sqlRecall, key.Caller, key.Key).Scan(&fingerprint, &stored); err != nil {
		return nil, fmt.Errorf("recall idempotency key: %w", err)
	}
	if !bytes.Equal(fingerprint, key.Fingerprint) {
		return nil, agent.ErrKeyReused
	}
	var earlier snapshot
	if err := json.Unmarshal(stored, &earlier); err != nil {
		return nil, fmt.Errorf("decode result: %w", err)
	}
	first := earlier.agent()
	return &first, nil
}

// What a registration or another replica holds is passed over.
const sqlPurge = `-- name: idempotency_keys_purge
DELETE FROM registry.idempotency_keys
WHERE (caller_id, idempotency_key) IN (
    SELECT caller_id, idempotency_key FROM registry.idempotency_keys
    WHERE expires_at <= $1 LIMIT $2 FOR UPDATE SKIP LOCKED)`

// PurgeIdempotencyKeys deletes at most so many keys that have expired by now. Any number of replicas may do so at once.
func (s *Store) PurgeIdempotencyKeys(ctx context.Context, now time.Time, limit int) (deleted int64, err error) {
	tag, err := s.db.Exec(ctx, sqlPurge, now, limit)
	return tag.RowsAffected(), pgdb.Fault(err)
}

// snapshot is the stored form of a registration's result. Its names are part of the schema: rows outlive the
// version of the program that wrote them.
type snapshot struct {
	AgentID       uuid.UUID `json:"agentId"`
	Email         string    `json:"email"`
	AgentType     string    `json:"agentType"`
	Version       string    `json:"version"`
	Capabilities  []string  `json:"capabilities"`
	Owner         string    `json:"owner"`
	DeploymentEnv string    `json:"deploymentEnv"`
	AllowedScopes []string  `json:"allowedScopes"`
	// AllowedResources is not in rows that are older than the field.
	AllowedResources []string   `json:"allowedResources"`
	Status           string     `json:"status"`
	RegisteredBy     *uuid.UUID `json:"registeredBy"`
	CreatedAt        time.Time  `json:"createdAt"`
	UpdatedAt        time.Time  `json:"updatedAt"`
	Revision         int64      `json:"revision"`
}

func asSnapshot(a agent.Agent) snapshot {
	return snapshot{
		AgentID: a.ID, Email: a.Email, AgentType: a.Type, Version: a.Version, Capabilities: a.Capabilities,
		Owner: a.Owner, DeploymentEnv: a.DeploymentEnv, AllowedScopes: a.AllowedScopes,
		AllowedResources: a.AllowedResources, Status: string(a.Status),
		RegisteredBy: a.RegisteredBy, CreatedAt: a.CreatedAt, UpdatedAt: a.UpdatedAt, Revision: a.Revision,
	}
}

func (s snapshot) agent() agent.Agent {
	resources := s.AllowedResources
	if resources == nil {
		resources = []string{}
	}
	return agent.Agent{
		ID: s.AgentID, Email: s.Email, Type: s.AgentType, Version: s.Version, Capabilities: s.Capabilities,
		Owner: s.Owner, DeploymentEnv: s.DeploymentEnv, AllowedScopes: s.AllowedScopes,
		AllowedResources: resources, Status: agent.Status(s.Status),
		RegisteredBy: s.RegisteredBy, CreatedAt: s.CreatedAt.UTC(), UpdatedAt: s.UpdatedAt.UTC(), Revision: s.Revision,
	}
}
