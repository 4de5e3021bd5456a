package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/services/registry/internal/agent"
)

const sqlAgentsWithKeys = `-- name: agents_get_with_keys
SELECT ` + columns + `, k.jwks, k.jwks_uri
FROM registry.agents LEFT JOIN registry.agent_keys k USING (agent_id) WHERE agent_id = ANY ($1)`

// Agents reads agents and their keys.
func (s *Store) Agents(ctx context.Context, ids []uuid.UUID) ([]agent.WithKeys, error) {
	rows, err := s.db.Query(ctx, sqlAgentsWithKeys, ids)
	if err != nil {
		return nil, pgdb.Fault(err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (agent.WithKeys, error) {
		var stored storedKeys
		found, err := scanWith(row, &stored.jwks, &stored.uri)
		return agent.WithKeys{Agent: found, Keys: stored.keys()}, err
	})
	return found, pgdb.Fault(err)
}

const sqlKeys = `-- name: agent_keys_get
SELECT jwks, jwks_uri FROM registry.agent_keys WHERE agent_id = $1`

const sqlKeysStore = `-- name: agent_keys_store
INSERT INTO registry.agent_keys (agent_id, jwks, jwks_uri) VALUES ($1, $2, $3)
ON CONFLICT ON CONSTRAINT agent_keys_pkey DO UPDATE SET jwks = excluded.jwks, jwks_uri = excluded.jwks_uri`

const sqlKeysRemove = `-- name: agent_keys_remove
DELETE FROM registry.agent_keys WHERE agent_id = $1`

// ReviseKeys changes the keys of one agent under the row lock of the agent.
func (s *Store) ReviseKeys(
	ctx context.Context, id uuid.UUID, change func(agent.Agent, *agent.Keys, time.Time) (agent.Revision, *agent.Keys, error),
) (agent.Agent, error) {
	var next agent.Agent
	err := s.db.WithTx(ctx, func(tx pgx.Tx) error {
		current, now, err := lock(ctx, tx, id)
		if err != nil {
			return err
		}
		var stored storedKeys
		err = tx.QueryRow(ctx, sqlKeys, id).Scan(&stored.jwks, &stored.uri)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return fmt.Errorf("read keys: %w", err)
		}
		revision, keys, err := change(current, stored.keys(), now)
		if err != nil {
			return err
		}
		next = revision.Agent
		if err := replaceKeys(ctx, tx, id, keys); err != nil {
			return err
		}
		return s.update(ctx, tx, revision)
	})
	if err != nil {
		return agent.Agent{}, fault(err)
	}
	return next, nil
}

// replaceKeys stores an agent's keys in place of those that are there; nil leaves none.
func replaceKeys(ctx context.Context, tx pgx.Tx, id uuid.UUID, keys *agent.Keys) error {
	if keys == nil {
		if _, err := tx.Exec(ctx, sqlKeysRemove, id); err != nil {
			return fmt.Errorf("remove keys: %w", err)
		}
		return nil
	}
	var uri *string
	if keys.URI != "" {
		uri = &keys.URI
	}
	if _, err := tx.Exec(ctx, sqlKeysStore, id, keys.JWKS, uri); err != nil {
		return fmt.Errorf("store keys: %w", err)
	}
	return nil
}

// storedKeys are the two columns, both null where an agent has no keys.
type storedKeys struct {
	jwks []byte
	uri  *string
}

func (s storedKeys) keys() *agent.Keys {
	switch {
	case s.jwks != nil:
		return &agent.Keys{JWKS: s.jwks}
	case s.uri != nil:
		return &agent.Keys{URI: *s.uri}
	default:
		return nil
	}
}
