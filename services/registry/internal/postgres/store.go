// Package postgres keeps agents in the registry's schema. Every SQL statement of the service stands here, and this
// is where rows and violated constraints get their meaning. It decides nothing about agents: what to store comes
// from package agent, and a transaction does nothing but that.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/sentryagent/agentidp/pkg/outbox"
	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/services/registry/internal/agent"
)

// The constraints whose violation means something to a caller.
const (
	emailUnique = "agents_email_unique"
	oneOperator = "agents_one_operator"
)

// Store is the registry's storage. It is safe for concurrent use.
type Store struct {
	db     *pgdb.DB
	outbox *outbox.Outbox
}

var _ agent.Store = (*Store)(nil)

// NewStore makes a store whose events leave through the outbox.
func NewStore(db *pgdb.DB, box *outbox.Outbox) *Store { return &Store{db: db, outbox: box} }

const sqlLiving = `-- name: fleet_living
SELECT living FROM registry.fleet`

// Living counts the agents that are not decommissioned.
func (s *Store) Living(ctx context.Context) (living int64, err error) {
	err = s.db.QueryRow(ctx, sqlLiving).Scan(&living)
	return living, pgdb.Fault(err)
}

// Register stores a new agent, its messages and its idempotency key together. The fleet's row comes last, so that
// registrations wait for each other as briefly as they can.
func (s *Store) Register(ctx context.Context, entry agent.Entry) (agent.Agent, error) {
	result := entry.Agent
	err := s.db.WithTx(ctx, func(tx pgx.Tx) error {
		if entry.Key != nil {
			earlier, err := remember(ctx, tx, *entry.Key, entry.Agent)
			if err != nil {
				return err
			}
			if earlier != nil {
				result = *earlier
				return nil
			}
		}
		if err := s.insert(ctx, tx, entry); err != nil {
			return err
		}
		return join(ctx, tx, entry.Limit)
	})
	if err != nil {
		return agent.Agent{}, fault(err)
	}
	return result, nil
}

// Bootstrap stores the operator, or finds the one there is: also one that another replica stores at this moment.
func (s *Store) Bootstrap(ctx context.Context, entry agent.Entry) (agent.Agent, error) {
	existing, err := operator(ctx, s.db, entry.Another)
	if !errors.Is(err, pgx.ErrNoRows) {
		return existing, pgdb.Fault(err)
	}
	err = s.db.WithTx(ctx, func(tx pgx.Tx) error {
		if err := s.insert(ctx, tx, entry); err != nil {
			return err
		}
		return join(ctx, tx, 0)
	})
	if err == nil {
		return entry.Agent, nil
	}
	// Two bootstraps at once violate either constraint, or both.
	if violated := pgdb.Constraint(err); violated == oneOperator || violated == emailUnique {
		if existing, operatorErr := operator(ctx, s.db, entry.Another); !errors.Is(operatorErr, pgx.ErrNoRows) {
			return existing, pgdb.Fault(operatorErr)
		}
	}
	return agent.Agent{}, fault(err)
}

const sqlInsert = `-- name: agent_insert
INSERT INTO registry.agents (` + columns + `)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)`

func (s *Store) insert(ctx context.Context, tx pgx.Tx, entry agent.Entry) error {
	if _, err := tx.Exec(ctx, sqlInsert, values(entry.Agent)...); err != nil {
		return fmt.Errorf("insert agent: %w", err)
	}
	return s.outbox.Append(ctx, tx, entry.Messages...)
}

const sqlJoin = `-- name: fleet_join
UPDATE registry.fleet SET living = living + 1 WHERE $1::bigint = 0 OR living < $1::bigint`

// join counts one more agent, unless that would pass the limit. The row's lock is held until the transaction ends,
// so that no two registrations see the same last place.
func join(ctx context.Context, tx pgx.Tx, limit int64) error {
	tag, err := tx.Exec(ctx, sqlJoin, limit)
	if err != nil {
		return fmt.Errorf("count agent: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return agent.LimitExceeded(limit)
	}
	return nil
}

const sqlLeave = `-- name: fleet_leave
UPDATE registry.fleet SET living = living - 1`

// The clock is read outside of the SELECT that locks, which computes its columns before it waits for the lock.
const sqlLock = `-- name: agent_lock
SELECT locked.*, clock_timestamp()
FROM (SELECT ` + columns + ` FROM registry.agents WHERE agent_id = $1 FOR NO KEY UPDATE) AS locked`

const sqlUpdate = `-- name: agent_update
UPDATE registry.agents
SET agent_type = $2, version = $3, capabilities = $4, owner = $5, deployment_env = $6, allowed_scopes = $7,
    status = $8, updated_at = $9, revision = $10, tokens_valid_after = $11, allowed_resources = $12
WHERE agent_id = $1`

// Revise changes one agent under its row lock.
func (s *Store) Revise(
	ctx context.Context, id uuid.UUID, change func(agent.Agent, time.Time) (agent.Revision, error),
) (agent.Agent, error) {
	var next agent.Agent
	err := s.db.WithTx(ctx, func(tx pgx.Tx) error {
		current, now, err := lock(ctx, tx, id)
		if err != nil {
			return err
		}
		revision, err := change(current, now)
		if err != nil {
			return err
		}
		next = revision.Agent
		if err := s.update(ctx, tx, revision); err != nil {
			return err
		}
		if current.Status != agent.Decommissioned && next.Status == agent.Decommissioned {
			if _, err := tx.Exec(ctx, sqlLeave); err != nil {
				return fmt.Errorf("discount agent: %w", err)
			}
		}
		return nil
	})
	if err != nil {
		return agent.Agent{}, fault(err)
	}
	return next, nil
}

// lock reads an agent, and the time once its row is locked, which it is until the transaction ends.
func lock(ctx context.Context, tx pgx.Tx, id uuid.UUID) (current agent.Agent, now time.Time, err error) {
	current, err = scanWith(tx.QueryRow(ctx, sqlLock, id), &now)
	if errors.Is(err, pgx.ErrNoRows) {
		return agent.Agent{}, time.Time{}, agent.ErrNotFound
	}
	if err != nil {
		return agent.Agent{}, time.Time{}, fmt.Errorf("lock agent: %w", err)
	}
	return current, now.UTC(), nil
}

// update stores a revision with its messages.
func (s *Store) update(ctx context.Context, tx pgx.Tx, revision agent.Revision) error {
	next := revision.Agent
	_, err := tx.Exec(ctx, sqlUpdate, next.ID, next.Type, next.Version, next.Capabilities, next.Owner,
		next.DeploymentEnv, next.AllowedScopes, string(next.Status), next.UpdatedAt, next.Revision,
		nullable(next.TokensValidAfter), next.AllowedResources)
	if err != nil {
		return fmt.Errorf("update agent: %w", err)
	}
	return s.outbox.Append(ctx, tx, revision.Messages...)
}

const sqlAgent = `-- name: agent_get
SELECT ` + columns + ` FROM registry.agents WHERE agent_id = $1`

// Agent reads one agent.
func (s *Store) Agent(ctx context.Context, id uuid.UUID) (agent.Agent, error) {
	found, err := scanOne(s.db.Query(ctx, sqlAgent, id))
	if errors.Is(err, pgx.ErrNoRows) {
		return agent.Agent{}, agent.ErrNotFound
	}
	return found, pgdb.Fault(err)
}

const sqlCutOff = `-- name: agents_cut_off
SELECT ` + columns + ` FROM registry.agents
WHERE tokens_valid_after > $1 AND agent_id > $2 ORDER BY agent_id LIMIT $3`

// CutOff reads a page of the agents some of whose tokens are refused since that time.
func (s *Store) CutOff(ctx context.Context, since time.Time, after uuid.UUID, limit int) ([]agent.Agent, error) {
	rows, err := s.db.Query(ctx, sqlCutOff, since, after, limit)
	if err != nil {
		return nil, pgdb.Fault(err)
	}
	found, err := pgx.CollectRows(rows, scan)
	return found, pgdb.Fault(err)
}

const sqlOperator = `-- name: agent_operator
SELECT ` + columns + ` FROM registry.agents
WHERE registered_by IS NULL AND ($1 OR status <> 'decommissioned')
ORDER BY status = 'decommissioned', created_at DESC LIMIT 1`

// operator reads the operator that lives or, unless only such a one is wanted, the last that there was.
func operator(ctx context.Context, db pgdb.Querier, onlyLiving bool) (agent.Agent, error) {
	return scanOne(db.Query(ctx, sqlOperator, !onlyLiving))
}

// fault gives an error of a transaction its meaning.
func fault(err error) error {
	if pgdb.Constraint(err) == emailUnique {
		return agent.ErrAlreadyExists.Because(err)
	}
	return pgdb.Fault(err)
}

// columns are those of an agent, in the order of values and scan.
const columns = `agent_id, email, agent_type, version, capabilities, owner, deployment_env, allowed_scopes, status,
    registered_by, created_at, updated_at, revision, tokens_valid_after, allowed_resources`

func values(a agent.Agent) []any {
	return []any{
		a.ID, a.Email, a.Type, a.Version, a.Capabilities, a.Owner, a.DeploymentEnv, a.AllowedScopes, string(a.Status),
		a.RegisteredBy, a.CreatedAt, a.UpdatedAt, a.Revision, nullable(a.TokensValidAfter),
		a.AllowedResources,
	}
}

// scanOne reads exactly one row, pgx.ErrNoRows if there is none.
func scanOne(rows pgx.Rows, err error) (agent.Agent, error) {
	if err != nil {
		return agent.Agent{}, err
	}
	return pgx.CollectExactlyOneRow(rows, scan)
}

func scan(row pgx.CollectableRow) (agent.Agent, error) { return scanWith(row) }

// scanWith reads the columns of an agent, and into more what was selected behind them.
func scanWith(row pgx.Row, more ...any) (agent.Agent, error) {
	var (
		a          agent.Agent
		status     string
		validAfter *time.Time
	)
	err := row.Scan(append([]any{&a.ID, &a.Email, &a.Type, &a.Version, &a.Capabilities, &a.Owner, &a.DeploymentEnv,
		&a.AllowedScopes, &status, &a.RegisteredBy, &a.CreatedAt, &a.UpdatedAt, &a.Revision, &validAfter, &a.AllowedResources}, more...)...)
	if err != nil {
		return agent.Agent{}, err
	}
	a.Status = agent.Status(status)
	a.CreatedAt, a.UpdatedAt = a.CreatedAt.UTC(), a.UpdatedAt.UTC()
	if validAfter != nil {
		a.TokensValidAfter = validAfter.UTC()
	}
	return a, nil
}

func nullable(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
