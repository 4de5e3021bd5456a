package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/sentryagent/agentidp/pkg/outbox"
	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/services/token/internal/journal"
)

// Outbox stores events that could not be published directly.
type Outbox struct {
	db     *pgdb.DB
	outbox *outbox.Outbox
}

var _ journal.Store = (*Outbox)(nil)

// NewOutbox makes the store over the outbox of the schema.
func NewOutbox(db *pgdb.DB, box *outbox.Outbox) *Outbox { return &Outbox{db: db, outbox: box} }

// Append stores the messages in one transaction.
func (s *Outbox) Append(ctx context.Context, messages []outbox.Message) error {
	return pgdb.Fault(s.db.WithTx(ctx, func(tx pgx.Tx) error {
		return s.outbox.Append(ctx, tx, messages...)
	}))
}
