// Package lifecycle carries what changed about agents and credentials to the services that cache it
// or must act on it. A message is a state, not a history: only the newest of each subject is kept.
// It must not decide what a change means; that is for the service that hears of it.
package lifecycle

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/outbox"
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

func parseAgent(subject string, payload []byte) (AgentChanged, error) {
	var change AgentChanged
	if err := json.Unmarshal(payload, &change); err != nil {
		return AgentChanged{}, fmt.Errorf("decode change of an agent: %w", err)
	}
	if subject != agentPrefix+change.AgentID.String() || change.Status == "" {
		return AgentChanged{}, errors.New("change of an agent does not fit its subject or has no status")
	}
	return change, nil
}

func parseCredential(subject string, payload []byte) (CredentialChanged, error) {
	var change CredentialChanged
	if err := json.Unmarshal(payload, &change); err != nil {
		return CredentialChanged{}, fmt.Errorf("decode change of a credential: %w", err)
	}
	if subject != credentialPrefix+change.AgentID.String() {
		return CredentialChanged{}, errors.New("change of a credential does not fit its subject")
	}
	return change, nil
}

func isAgent(subject string) bool      { return strings.HasPrefix(subject, agentPrefix) }
func isCredential(subject string) bool { return strings.HasPrefix(subject, credentialPrefix) }
