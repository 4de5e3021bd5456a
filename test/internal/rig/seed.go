package rig

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"runtime"

	"github.com/google/uuid"
	"golang.org/x/crypto/bcrypt"
	"golang.org/x/sync/errgroup"
)

// Crowd describes agents that are put into the database by SQL.
type Crowd struct {
	Name  string // part of their email addresses
	Count int
	// Cost is the work factor of bcrypt; the service's own is 10. It matters only for the first token of each agent.
	Cost int
}

// Seed inserts agents with one credential each, and each with a secret and a hash of its own.
func (r *Rig) Seed(ctx context.Context, crowd Crowd) ([]Client, error) {
	clients, hashes, fingerprints, err := secrets(crowd)
	if err != nil {
		return nil, err
	}
	ids := make([]string, crowd.Count)
	for i, client := range clients {
		ids[i] = client.ID
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
			SELECT gen_random_uuid(), id, 'active', hash, fingerprint, now()
			FROM unnest($1::uuid[], $2::bytea[], $3::bytea[]) AS c (id, hash, fingerprint)`, []any{ids, hashes, fingerprints}},
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

// secrets makes the clients of a crowd and what is stored of their secrets, on all cores.
func secrets(crowd Crowd) (clients []Client, hashes, fingerprints [][]byte, err error) {
	clients = make([]Client, crowd.Count)
	hashes, fingerprints = make([][]byte, crowd.Count), make([][]byte, crowd.Count)
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i := range clients {
		group.Go(func() (err error) {
			var random [32]byte
			_, _ = rand.Read(random[:])
			secret := "sk_live_" + hex.EncodeToString(random[:])
			digest := sha256.Sum256([]byte(secret))
			clients[i], fingerprints[i] = Client{ID: uuid.NewString(), Secret: secret}, digest[:8]
			hashes[i], err = bcrypt.GenerateFromPassword([]byte(secret), crowd.Cost)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, nil, nil, fmt.Errorf("hash a secret: %w", err)
	}
	return clients, hashes, fingerprints, nil
}
