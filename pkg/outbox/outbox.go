// Package outbox makes a state change and the message about it one thing: the message is written in
// the transaction of the change, and a relay in every replica brings it to JetStream afterwards, at
// least once, with the message's id as Nats-Msg-Id, so that the stream holds it once.
//
// It offers no way to write a message outside of a transaction, and it does not look into payloads.
package outbox

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Message is what goes to JetStream. ID becomes the Nats-Msg-Id, which makes a repeat harmless.
// Messages of one lifecycle.… subject are published in the order in which they were appended, as
// the newest of them is the state; all others in no order that could be relied on.
type Message struct {
	ID      uuid.UUID
	Subject string
	Payload []byte
}

// Outbox is the table <schema>.outbox of one service. It is safe for concurrent use.
type Outbox struct {
	channel string
	sql     statements
}

// New names the outbox of a schema. schema is a constant of the service, never input.
func New(schema string) *Outbox {
	channel := schema + "_outbox"
	return &Outbox{channel: channel, sql: newStatements(schema, channel)}
}

// Append writes the messages in tx, in one statement, and wakes the relays when tx commits. A change
// of a row must come before its message in tx: the row's lock then orders the messages about it.
func (o *Outbox) Append(ctx context.Context, tx pgx.Tx, msgs ...Message) error {
	if len(msgs) == 0 {
		return nil
	}
	ids := make([]uuid.UUID, len(msgs))
	subjects := make([]string, len(msgs))
	payloads := make([][]byte, len(msgs))
	for i, m := range msgs {
		ids[i], subjects[i], payloads[i] = m.ID, m.Subject, m.Payload
	}
	if _, err := tx.Exec(ctx, o.sql.insert, ids, subjects, payloads); err != nil {
		return fmt.Errorf("append to the outbox: %w", err)
	}
	return nil
}
