// Package agent is the registry's domain: what an agent is, which rules its fields keep, and what may happen
// to it from its registration to its end. It decides which events a change leaves behind, but it knows nothing
// of HTTP or SQL; storage is an interface that it declares, and who may do what is the policy's business.
package agent

import (
	"time"

	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/authz"
)

// Status says whether an agent may act.
type Status string

// The three states. An agent is born active, may be suspended and reactivated any number of times, and is
// decommissioned once and for good.
const (
	Active         Status = "active"
	Suspended      Status = "suspended"
	Decommissioned Status = "decommissioned"
)

// Statuses returns every state, in the order of an agent's life.
func Statuses() []string {
	return []string{string(Active), string(Suspended), string(Decommissioned)}
}

// Types returns every agentType.
func Types() []string {
	return []string{"screener", "classifier", "orchestrator", "extractor", "summarizer", "router", "monitor", "custom"}
}

// Environments returns every deploymentEnv.
func Environments() []string {
	return []string{"development", "staging", "production"}
}

// Agent is one registered agent. Its slices are never nil and keep the order in which they were given; its
// times are UTC with microseconds.
type Agent struct {
	ID            uuid.UUID
	Email         string
	Type          string
	Version       string
	Capabilities  []string
	Owner         string
	DeploymentEnv string
	AllowedScopes []string
	// AllowedResources are the absolute URIs that it may ask for tokens for, each by exactly its own string.
	AllowedResources []string
	Status           Status
	// RegisteredBy is the subject of the token that registered the agent, nil for the bootstrap operator.
	RegisteredBy *uuid.UUID
	CreatedAt    time.Time
	UpdatedAt    time.Time
	// Revision starts at 1 and grows by one with every change; the ETag is made of it.
	Revision int64
	// TokensValidAfter: a token issued at or before this moment is refused, whatever the status. It is a whole
	// number of milliseconds, as token issue times are, and never moves back. Zero while the status never changed.
	TokensValidAfter time.Time
}

// Resource describes the agent to the policy.
func (a Agent) Resource() authz.Resource {
	exists := true
	resource := authz.Resource{AgentID: a.ID.String(), Owner: a.Owner, Exists: &exists, MayRequest: a.AllowedScopes}
	if a.RegisteredBy != nil {
		resource.RegisteredBy = a.RegisteredBy.String()
	}
	return resource
}
