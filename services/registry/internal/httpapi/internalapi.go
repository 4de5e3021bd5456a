package httpapi

import (
	"net/http"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/guard"
	"github.com/sentryagent/agentidp/pkg/httpx"
	"github.com/sentryagent/agentidp/pkg/registryapi"
	"github.com/sentryagent/agentidp/services/registry/internal/agent"
)

// internalAgents answers GET /internal/v1/agents?ids=.
func (a *api) internalAgents(c *gin.Context) error {
	in := httpx.NewInput(c)
	ids := in.UUIDs("ids", registryapi.MaxAgents)
	if err := in.Err(); err != nil {
		return err
	}
	found, err := a.registry.Agents(c.Request.Context(), ids)
	if err != nil {
		return err
	}
	response := registryapi.AgentsResponse{Agents: make([]registryapi.Agent, len(found))}
	for i, one := range found {
		response.Agents[i] = internalResponseOf(one.Agent)
		if one.Keys != nil {
			registered := keysResponseOf(*one.Keys)
			response.Agents[i].Keys = &registered
		}
	}
	httpx.JSON(c, http.StatusOK, response)
	return nil
}

// internalCutoffs answers GET /internal/v1/cutoffs?since=&after=.
func (a *api) internalCutoffs(c *gin.Context) error {
	in := httpx.NewInput(c)
	var since time.Time
	if given := in.Time("since", false); given != nil {
		since = *given
	}
	after := uuid.Nil
	if given := in.UUID("after"); given != nil {
		after = *given
	}
	if err := in.Err(); err != nil {
		return err
	}
	found, err := a.registry.CutOff(c.Request.Context(), since, after, registryapi.MaxCutoffs)
	if err != nil {
		return err
	}
	response := registryapi.CutoffsResponse{Cutoffs: make([]registryapi.Cutoff, len(found))}
	for i, one := range found {
		response.Cutoffs[i] = registryapi.Cutoff{
			AgentID: one.ID, Status: string(one.Status), Revision: one.Revision, TokensValidAfter: one.TokensValidAfter,
		}
	}
	httpx.JSON(c, http.StatusOK, response)
	return nil
}

// bootstrapRequest is a registryapi.BootstrapRequest of which one can tell what was given.
type bootstrapRequest struct {
	Email         *string `json:"email"`
	Owner         *string `json:"owner"`
	DeploymentEnv *string `json:"deploymentEnv"`
	NewOperator   bool    `json:"newOperator"`
}

var _ httpx.Checker = (*bootstrapRequest)(nil)

// Check adds every rule that the request breaks.
func (r *bootstrapRequest) Check(f *apperr.Fields) {
	given := agent.Attributes{Email: r.Email, Owner: r.Owner, DeploymentEnv: r.DeploymentEnv}
	addAll(f, given.FaultsOfOperator())
}

// bootstrap answers POST /internal/v1/bootstrap.
func (a *api) bootstrap(c *gin.Context) error {
	var req bootstrapRequest
	if err := httpx.NewInput(c).JSON(&req).Err(); err != nil {
		return err
	}
	env := "production"
	if req.DeploymentEnv != nil {
		env = *req.DeploymentEnv
	}
	operator, created, err := a.registry.Bootstrap(c.Request.Context(), agent.Operator{
		Email: *req.Email, Owner: *req.Owner, DeploymentEnv: env, Another: req.NewOperator, Origin: guard.Origin(c),
	})
	if err != nil {
		return err
	}
	status := http.StatusOK
	if created {
		status = http.StatusCreated
	}
	httpx.JSON(c, status, registryapi.BootstrapResponse{Agent: internalResponseOf(operator), Created: created})
	return nil
}

func internalResponseOf(a agent.Agent) registryapi.Agent {
	return registryapi.Agent{
		AgentID:          a.ID,
		Email:            a.Email,
		AgentType:        a.Type,
		Version:          a.Version,
		Capabilities:     a.Capabilities,
		Owner:            a.Owner,
		DeploymentEnv:    a.DeploymentEnv,
		AllowedScopes:    a.AllowedScopes,
		AllowedResources: a.AllowedResources,
		Status:           string(a.Status),
		RegisteredBy:     a.RegisteredBy,
		CreatedAt:        a.CreatedAt,
		UpdatedAt:        a.UpdatedAt,
		Revision:         a.Revision,
		TokensValidAfter: a.TokensValidAfter,
	}
}
