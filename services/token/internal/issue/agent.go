package issue

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
)

// Status of an agent.
type Status string

// The statuses there are.
const (
	StatusActive         Status = "active"
	StatusSuspended      Status = "suspended"
	StatusDecommissioned Status = "decommissioned"
)

// Agent is what this service knows of an agent.
type Agent struct {
	ID            uuid.UUID
	Status        Status
	Type          string
	Owner         string
	DeploymentEnv string
	AllowedScopes []string
	Capabilities  []string
	// AllowedResources are what its tokens may be for, besides the issuer (RFC 8707).
	AllowedResources []string
	// Keys verify what it signs to prove who it is.
	Keys ClientKeys
	// Revision counts its changes: a higher one is the newer state.
	Revision int64
	// TokensValidAfter is the instant up to which (inclusive) its tokens are refused; zero if there is none.
	TokensValidAfter time.Time
}

// ErrUnknownAgent says that no agent has that id.
var ErrUnknownAgent = errors.New("unknown agent")

// Agents finds agents.
type Agents interface {
	// Known answers from memory, with ErrUnknownAgent for an id that is known not
	// to exist; ok is false when the registry has to be asked.
	Known(id uuid.UUID) (agent Agent, ok bool, err error)
	// Agent asks the registry. It answers ErrUnknownAgent, or an error that means
	// that the registry could not be asked.
	Agent(ctx context.Context, id uuid.UUID) (Agent, error)
	// AgentNow is Agent, but never answers what the registry was asked before it was called.
	AgentNow(ctx context.Context, id uuid.UUID) (Agent, error)
}
