// Package registryapi is the registry service's internal API as its callers see it: the wire types that both sides
// share, and the client. It must hold no rule about agents (those are the registry's) and no transport policy (timeouts,
// retries and circuit breaking are those of package peer).
package registryapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/apperr"
)

// The values of Agent.Status. A decommissioned agent never becomes anything else again.
const (
	StatusActive         = "active"
	StatusSuspended      = "suspended"
	StatusDecommissioned = "decommissioned"
)

// The paths of the internal API, as gin templates relative to peer.Prefix.
const (
	AgentsPath    = "/agents"
	CutoffsPath   = "/cutoffs"
	BootstrapPath = "/bootstrap"
)

// MaxAgents is how many agents are looked up at once.
const MaxAgents = 100

// MaxCutoffs is how many cutoffs are told at once.
const MaxCutoffs = 1000

// AgentsResponse has those of the agents asked for that there are, in no order.
type AgentsResponse struct {
	Agents []Agent `json:"agents"`
}

// Agent is an agent with what only other services need to know of it: its revision and the time before which none of its
// tokens is good any more.
type Agent struct {
	AgentID       uuid.UUID `json:"agentId"`
	Email         string    `json:"email"`
	AgentType     string    `json:"agentType"`
	Version       string    `json:"version"`
	Capabilities  []string  `json:"capabilities"`
	Owner         string    `json:"owner"`
	DeploymentEnv string    `json:"deploymentEnv"`
	AllowedScopes []string  `json:"allowedScopes"`
	// AllowedResources are the absolute URIs (RFC 8707 §2) that the agent may ask for tokens for.
	AllowedResources []string   `json:"allowedResources"`
	Status           string     `json:"status"`
	RegisteredBy     *uuid.UUID `json:"registeredBy"`
	CreatedAt        time.Time  `json:"createdAt"`
	UpdatedAt        time.Time  `json:"updatedAt"`
	// Revision counts the agent's changes, from 1. A higher one is always the newer state.
	Revision int64 `json:"revision"`
	// TokensValidAfter is the instant up to which (inclusive) the agent's tokens are refused; zero if there is none.
	TokensValidAfter time.Time `json:"tokensValidAfter"`
	// Keys are what the agent's client assertions are verified with; nil if none were registered.
	Keys *AgentKeys `json:"keys,omitempty"`
}

// AgentKeys are the public keys that an agent registered for private_key_jwt: a JWK set, or the URI of one; exactly one of
// them is there. The set is one that jwk.ParseClientSet takes, the URI one that jwk.CheckURI does.
type AgentKeys struct {
	JWKS    json.RawMessage `json:"jwks,omitempty"`
	JWKSURI string          `json:"jwksUri,omitempty"`
}

// CutoffsResponse has cutoffs in the order of their agents; where they are fewer than MaxCutoffs there are no further ones.
type CutoffsResponse struct {
	Cutoffs []Cutoff `json:"cutoffs"`
}

// Cutoff is what decides about the tokens of an agent whose status has changed. Its fields are those of Agent.
type Cutoff struct {
	AgentID          uuid.UUID `json:"agentId"`
	Status           string    `json:"status"`
	Revision         int64     `json:"revision"`
	TokensValidAfter time.Time `json:"tokensValidAfter"`
}

// BootstrapRequest asks for the first operator. DeploymentEnv defaults to production when empty.
type BootstrapRequest struct {
	Email         string `json:"email"`
	Owner         string `json:"owner"`
	DeploymentEnv string `json:"deploymentEnv,omitempty"`
	// NewOperator asks for a new one where the one there is is not active; one that is suspended is decommissioned first.
	NewOperator bool `json:"newOperator,omitempty"`
}

// BootstrapResponse is the operator. Created is false when one existed already, whatever its email, owner and status; the status
// is 201 or 200 accordingly.
type BootstrapResponse struct {
	Agent

	Created bool `json:"created"`
}

// Caller sends one JSON request to the registry and decodes its answer; *peer.Client is one.
type Caller interface {
	Do(ctx context.Context, method, path string, in, out any) error
}

// Client calls the registry's internal API. It is safe for concurrent use.
type Client struct{ caller Caller }

// NewClient gives a client that sends through caller.
func NewClient(caller Caller) *Client { return &Client{caller: caller} }

// Agent gives the agent with that id, in whatever status. Errors are *apperr.Error: AGENT_NOT_FOUND when there is none,
// SERVICE_UNAVAILABLE when the registry could not be asked.
func (c *Client) Agent(ctx context.Context, id uuid.UUID) (Agent, error) {
	agents, err := c.Agents(ctx, []uuid.UUID{id})
	if err != nil {
		return Agent{}, err
	}
	agent, ok := agents[id]
	if !ok {
		return Agent{}, apperr.New(apperr.AgentNotFound, "Agent with the specified ID was not found.")
	}
	return agent, nil
}

// Agents gives the agents with these ids, 1 to MaxAgents, in whatever status; those that there are not are missing. The
// error is SERVICE_UNAVAILABLE when the registry could not be asked.
func (c *Client) Agents(ctx context.Context, ids []uuid.UUID) (map[uuid.UUID]Agent, error) {
	texts := make([]string, len(ids))
	for i, id := range ids {
		texts[i] = id.String()
	}
	var res AgentsResponse
	if err := c.caller.Do(ctx, http.MethodGet, AgentsPath+"?ids="+strings.Join(texts, ","), nil, &res); err != nil {
		return nil, err
	}
	if res.Agents == nil {
		// A body that lacks the answer must not be read as that there are none.
		return nil, apperr.Unavailable(errors.New("registry gave no answer about agents"))
	}
	found := make(map[uuid.UUID]Agent, len(ids))
	for _, agent := range res.Agents {
		found[agent.AgentID] = agent
	}
	return found, nil
}

// Cutoffs gives those of the agents whose status changed after since, as the agents are now, in the order of their ids from
// after the given one on: MaxCutoffs of them, or all that are left. The error is SERVICE_UNAVAILABLE when the registry could
// not be asked.
func (c *Client) Cutoffs(ctx context.Context, since time.Time, after uuid.UUID) ([]Cutoff, error) {
	query := url.Values{"since": {since.UTC().Format(time.RFC3339Nano)}, "after": {after.String()}}
	var res CutoffsResponse
	if err := c.caller.Do(ctx, http.MethodGet, CutoffsPath+"?"+query.Encode(), nil, &res); err != nil {
		return nil, err
	}
	if res.Cutoffs == nil {
		return nil, apperr.Unavailable(errors.New("registry gave no answer about cutoffs"))
	}
	return res.Cutoffs, nil
}

// Bootstrap creates the first operator, or gives the one that exists; created tells which. It is idempotent.
func (c *Client) Bootstrap(ctx context.Context, req BootstrapRequest) (agent Agent, created bool, err error) {
	var res BootstrapResponse
	if err := c.caller.Do(ctx, http.MethodPost, BootstrapPath, req, &res); err != nil {
		return Agent{}, false, err
	}
	return res.Agent, res.Created, nil
}
