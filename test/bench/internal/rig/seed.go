package rig

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/google/uuid"
	"golang.org/x/crypto/bcrypt"
)

// Crowd describes agents that are put into the database by SQL.
type Crowd struct {
	Name  string // part of their email addresses
	Count int
	// Cost is the work factor of bcrypt; the service's own is 10. It matters only for the first token of each agent.
	Cost int
}

// Seed inserts agents with one credential each. Their secret is the same random one, hashed once: ten thousand hashes of
// the service's own work factor take ten minutes. What the services do with each agent does not change by that: a hash
// belongs to a credential, is looked up by the agent's id, and what is remembered of a secret is bound to the id too.
func (r *Rig) Seed(ctx context.Context, crowd Crowd) ([]Client, error) {
	var random [32]byte
	_, _ = rand.Read(random[:])
	secret := "sk_live_" + hex.EncodeToString(random[:])
	hash, err := bcrypt.GenerateFromPassword([]byte(secret), crowd.Cost)
	if err != nil {
		return nil, fmt.Errorf("hash a secret: %w", err)
	}
	digest := sha256.Sum256([]byte(secret))
	ids := make([]uuid.UUID, crowd.Count)
	clients := make([]Client, crowd.Count)
	for i := range ids {
		ids[i] = uuid.New()
		clients[i] = Client{ID: ids[i].String(), Secret: secret}
	}
	for _, statement := range []struct {
		sql  string
		args []any
	}{
		{`INSERT INTO registry.agents (agent_id, email, agent_type, version, capabilities, owner, deployment_env, allowed_scopes,
				status, registered_by, created_at, updated_at, revision)
			SELECT id, $2 || '-' || id || '@example.com', 'screener', '1.2.3', '{resume:read}', 'talent', 'production',
				'{agents:read}', 'active', $3, now(), now(), 1
			FROM unnest($1::uuid[]) AS id`, []any{ids, crowd.Name, r.operator.ID}},
		{`UPDATE registry.fleet SET living = living + $1`, []any{crowd.Count}},
		{`INSERT INTO credentials.agents (agent_id) SELECT unnest($1::uuid[])`, []any{ids}},
		{`INSERT INTO credentials.credentials (credential_id, agent_id, status, secret_hash, secret_fingerprint, created_at)
			SELECT gen_random_uuid(), id, 'active', $2, $3, now() FROM unnest($1::uuid[]) AS id`, []any{ids, hash, digest[:8]}},
	} {
		if _, err := r.db.Exec(ctx, statement.sql, statement.args...); err != nil {
			return nil, fmt.Errorf("insert agents: %w", err)
		}
	}
	if _, err := r.db.Exec(ctx, "ANALYZE registry.agents, credentials.agents, credentials.credentials"); err != nil {
		return nil, fmt.Errorf("analyze: %w", err)
	}
	return clients, nil
}
