package agentidp

import (
	"context"
	"crypto/rand"
	"iter"
	"net/http"
	"net/url"
	"time"
)

// AgentType says what an agent does.
type AgentType string

// The types of agents.
const (
	Screener     AgentType = "screener"
	Classifier   AgentType = "classifier"
	Orchestrator AgentType = "orchestrator"
	Extractor    AgentType = "extractor"
	Summarizer   AgentType = "summarizer"
	Router       AgentType = "router"
	Monitor      AgentType = "monitor"
	Custom       AgentType = "custom"
)

// AgentStatus says whether an agent may act.
type AgentStatus string

// The statuses of agents. An agent that is not active gets no tokens, and those
// it holds are refused everywhere. Decommissioned is for good.
const (
	Active         AgentStatus = "active"
	Suspended      AgentStatus = "suspended"
	Decommissioned AgentStatus = "decommissioned"
)

// DeploymentEnv says where an agent runs.
type DeploymentEnv string

// The environments agents run in.
const (
	Development DeploymentEnv = "development"
	Staging     DeploymentEnv = "staging"
	Production  DeploymentEnv = "production"
)

// Agent is an agent as the provider knows it.
type Agent struct {
	// ID is the OAuth client_id of the agent too.
	ID            string        `json:"agentId"`
	Email         string        `json:"email"`
	Type          AgentType     `json:"agentType"`
	Version       string        `json:"version"`
	Capabilities  []string      `json:"capabilities"`
	Owner         string        `json:"owner"`
	DeploymentEnv DeploymentEnv `json:"deploymentEnv"`
	// AllowedScopes are the system scopes the agent may ask for, besides its
	// capabilities.
	AllowedScopes []string `json:"allowedScopes"`
	// AllowedResources are the absolute URIs the agent may ask for tokens for
	// (RFC 8707).
	AllowedResources []string    `json:"allowedResources"`
	Status           AgentStatus `json:"status"`
	// RegisteredBy is the agent that registered it; nil for the first operator.
	RegisteredBy *string   `json:"registeredBy"`
	CreatedAt    time.Time `json:"createdAt"`
	UpdatedAt    time.Time `json:"updatedAt"`
	// ETag names this state of the agent, for AgentUpdate.IfMatch. It is empty in
	// lists.
	ETag string `json:"-"`
}

// Registration is a new agent.
type Registration struct {
	Email         string        `json:"email"`
	Type          AgentType     `json:"agentType"`
	Version       string        `json:"version"`      // as in 1.2.3
	Capabilities  []string      `json:"capabilities"` // as in resume:read
	Owner         string        `json:"owner"`
	DeploymentEnv DeploymentEnv `json:"deploymentEnv"`
	// AllowedScopes nil leaves them to the provider: those of the caller, without
	// agents:admin. Empty and not nil means none.
	AllowedScopes []string `json:"allowedScopes,omitzero"`
	// AllowedResources are at most 16 absolute URIs without fragment.
	AllowedResources []string `json:"allowedResources,omitempty"`
	// IdempotencyKey makes a second registration with the same key and content
	// answer with the first one's agent, for 24 hours. Empty means a random one,
	// so that repetitions by the client itself do no harm.
	IdempotencyKey string `json:"-"`
}

// AgentUpdate says what is to change; what is nil stays.
type AgentUpdate struct {
	Type             *AgentType     `json:"agentType,omitempty"`
	Version          *string        `json:"version,omitempty"`
	Capabilities     []string       `json:"capabilities,omitzero"`
	Owner            *string        `json:"owner,omitempty"`
	DeploymentEnv    *DeploymentEnv `json:"deploymentEnv,omitempty"`
	AllowedScopes    []string       `json:"allowedScopes,omitzero"`
	AllowedResources []string       `json:"allowedResources,omitzero"`
	// Status may become Active or Suspended; see Agents.Decommission.
	Status *AgentStatus `json:"status,omitempty"`
	// IfMatch makes the update fail with CodePreconditionFailed if the agent is no
	// longer in the state with this ETag. Empty means no condition.
	IfMatch string `json:"-"`
}

// AgentFilter says which agents are meant; empty fields do not restrict.
type AgentFilter struct {
	Owner         string
	Type          AgentType
	Status        AgentStatus
	DeploymentEnv DeploymentEnv
	Capability    string
	Email         string
}

func (f AgentFilter) query() url.Values {
	return restrict(map[string]string{
		"owner":         f.Owner,
		"agentType":     string(f.Type),
		"status":        string(f.Status),
		"deploymentEnv": string(f.DeploymentEnv),
		"capability":    f.Capability,
		"email":         f.Email,
	})
}

// Agents are the agents the provider knows.
type Agents struct{ client *Client }

// Register makes a new agent. It needs agents:write.
func (a *Agents) Register(ctx context.Context, registration Registration) (Agent, error) {
	key := registration.IdempotencyKey
	if key == "" {
		key = rand.Text()
	}
	return a.one(ctx, call{
		method: http.MethodPost, path: "/api/v1/agents", json: registration,
		header: http.Header{"Idempotency-Key": {key}}, repeatable: true,
	})
}

// Get returns one agent. It needs agents:read.
func (a *Agents) Get(ctx context.Context, agentID string) (Agent, error) {
	path, err := path("/agents/{}", agentID)
	if err != nil {
		return Agent{}, err
	}
	return a.one(ctx, call{method: http.MethodGet, path: path, repeatable: true})
}

// All walks all agents that match, newest first, page by page. It needs
// agents:read. After an error the walk is over.
func (a *Agents) All(ctx context.Context, filter AgentFilter) iter.Seq2[Agent, error] {
	return walk(func(options ListOptions) (Page[Agent], error) { return a.List(ctx, filter, options) })
}

// List returns one page of the agents that match, newest first. It needs
// agents:read.
func (a *Agents) List(ctx context.Context, filter AgentFilter, options ListOptions) (Page[Agent], error) {
	return list[Agent](ctx, a.client, "/api/v1/agents", filter.query(), options)
}

// Update changes an agent and returns it as it is then. It needs agents:write, and
// the agent to be the caller, registered by it or of the same owner; or
// agents:admin. One that may request agents:admin is changed by itself or with
// agents:admin only.
func (a *Agents) Update(ctx context.Context, agentID string, update AgentUpdate) (Agent, error) {
	path, err := path("/agents/{}", agentID)
	if err != nil {
		return Agent{}, err
	}
	return a.one(ctx, call{method: http.MethodPatch, path: path, json: update, header: ifMatch(update.IfMatch)})
}

// Decommission ends an agent for good: its tokens are refused, its credentials
// revoked; its record stays. It needs what Update needs.
func (a *Agents) Decommission(ctx context.Context, agentID string) error {
	path, err := path("/agents/{}", agentID)
	if err != nil {
		return err
	}
	_, err = a.client.do(ctx, call{method: http.MethodDelete, path: path})
	return err
}

func (a *Agents) one(ctx context.Context, r call) (Agent, error) {
	var agent Agent
	r.out = &agent
	header, err := a.client.do(ctx, r)
	if err != nil {
		return Agent{}, err
	}
	agent.ETag = header.Get("ETag")
	return agent, nil
}
