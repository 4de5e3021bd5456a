// Package postgres keeps the audit trail in the schema audit. It holds every SQL
// statement of the audit service, and none of them changes or removes an event:
// the role it works as could not. What an event means is decided in package
// trail.
package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

// Store reads events. It is safe for concurrent use.
type Store struct {
	db    *pgdb.DB
	clock func() time.Time
}

var _ trail.Store = (*Store)(nil)

// New returns a Store on db, which connects as a role that may read.
func New(db *pgdb.DB) *Store {
	return &Store{db: db, clock: time.Now}
}

// Get returns one event, or trail.ErrNotFound.
func (s *Store) Get(ctx context.Context, id uuid.UUID) (trail.Event, error) {
	leaf, err := NewLog(s.db).LeafOf(ctx, id)
	if err != nil {
		return trail.Event{}, err
	}
	return stored(leaf.Payload)
}

func scan(row pgx.CollectableRow) (trail.Event, error) {
	var payload []byte
	if err := row.Scan(&payload); err != nil {
		return trail.Event{}, err
	}
	return stored(payload)
}

// stored reads an event back from the record of it, which the columns beside it
// only index.
func stored(payload []byte) (trail.Event, error) {
	event, err := trail.Decode(payload)
	if err != nil {
		return trail.Event{}, fmt.Errorf("read a stored event: %w", err)
	}
	return event, nil
}
