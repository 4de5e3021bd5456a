package agent

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/outbox"
	"github.com/sentryagent/agentidp/pkg/paging"
)

// IdempotencyWindow is how long a registration is remembered under its Idempotency-Key.
const IdempotencyWindow = 24 * time.Hour

// The errors a caller can meet; a copy that has its cause is told by the code alone (apperr.CodeOf).
var (
	ErrNotFound           = apperr.New(apperr.AgentNotFound, "Agent with the specified ID was not found.")
	ErrAlreadyExists      = apperr.New(apperr.AgentAlreadyExists, "An agent with this email address is already registered.")
	ErrDecommissioned     = apperr.New(apperr.AgentAlreadyDecommissioned, "The agent has been decommissioned.")
	ErrKeysNotFound       = apperr.New(apperr.AgentKeysNotFound, "The agent has no keys registered.")
	ErrPreconditionFailed = apperr.New(apperr.PreconditionFailed, "If-Match does not match the agent's ETag.")
	ErrKeyReused          = apperr.New(apperr.IdempotencyKeyReused,
		"This Idempotency-Key was used for another request within the last 24 hours.")
)

// LimitExceeded is the error of a registration for which the free tier has no room.
func LimitExceeded(limit int64) error {
	return apperr.New(apperr.FreeTierLimitExceeded, "The limit of registered agents has been reached.").
		With(map[string]any{"limit": limit})
}

// Store keeps agents. Each method is one transaction: the change, its messages and its idempotency key are
// stored together or not at all. It returns the errors above, and SERVICE_UNAVAILABLE without its database.
type Store interface {
	// Register stores the agent, or returns the agent of the first request under the same idempotency key.
	Register(ctx context.Context, entry Entry) (Agent, error)
	// Bootstrap stores the agent without regard to the limit, or returns the one that nobody registered: the one that is not
	// decommissioned, of which there is one at most, else the newest. With Another, only the former is returned.
	Bootstrap(ctx context.Context, entry Entry) (Agent, error)
	// Agent returns ErrNotFound for an unknown id.
	Agent(ctx context.Context, id uuid.UUID) (Agent, error)
	// Agents returns those that there are, each with its keys as they were at the same moment.
	Agents(ctx context.Context, ids []uuid.UUID) ([]WithKeys, error)
	// CutOff returns the agents with TokensValidAfter after since, in the order of their ids, from after the given one on.
	CutOff(ctx context.Context, since time.Time, after uuid.UUID, limit int) ([]Agent, error)
	List(ctx context.Context, filter Filter, page paging.Page) (paging.Listing[Agent], error)
	// Revise locks the agent, calls change with it as it is and with the time, and stores what change returns, or nothing
	// if it returns an error. The time is by the store's own clock, read under the lock, so that it does not matter whose
	// clock is wrong; it is UTC, in whole microseconds. The change must do no I/O.
	Revise(ctx context.Context, id uuid.UUID, change func(Agent, time.Time) (Revision, error)) (Agent, error)
	// ReviseKeys does the same for an agent's keys, nil where there are none, and stores those that change leaves: nil
	// removes them.
	ReviseKeys(ctx context.Context, id uuid.UUID, change func(Agent, *Keys, time.Time) (Revision, *Keys, error)) (Agent, error)
}

// Entry is a new agent with all that is stored beside it.
type Entry struct {
	Agent    Agent
	Messages []outbox.Message
	// Limit is how many agents that are not decommissioned there may be, this one included; 0 is no limit.
	Limit int64
	// Key is nil where the caller gave none.
	Key *IdempotencyKey
	// Another is for Bootstrap: an operator that was decommissioned does not stand in the way.
	Another bool
}

// Revision is an agent after a change, with the messages that tell of it.
type Revision struct {
	Agent    Agent
	Messages []outbox.Message
}

// IdempotencyKey remembers a registration for its caller.
type IdempotencyKey struct {
	Caller uuid.UUID
	Key    string
	// Fingerprint tells one body from another.
	Fingerprint []byte
	// Now is the moment of the request: a remembered registration that has expired by then is replaced.
	Now       time.Time
	ExpiresAt time.Time
}

// Filter narrows a list; nil is no condition. Capability asks for agents that name this very capability, Email
// is compared without regard to case.
type Filter struct {
	Owner, Type, Status, DeploymentEnv, Capability, Email *string
}

// fingerprint is equal for two bodies that say the same: order of fields and white space do not count, order
// within a list does, because the answer keeps it.
func (a Attributes) fingerprint() ([]byte, error) {
	canonical, err := json.Marshal(a)
	if err != nil {
		return nil, fmt.Errorf("canonical form of a registration: %w", err)
	}
	sum := sha256.Sum256(canonical)
	return sum[:], nil
}
