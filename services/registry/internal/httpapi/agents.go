package httpapi

import (
	"net/http"
	"slices"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/authz"
	"github.com/sentryagent/agentidp/pkg/guard"
	"github.com/sentryagent/agentidp/pkg/httpx"
	"github.com/sentryagent/agentidp/services/registry/internal/agent"
)

// register answers POST /agents.
func (a *api) register(c *gin.Context) error {
	var req registerRequest
	in := httpx.NewInput(c).JSON(&req)
	key, fault := idempotencyKey(c.Request.Header)
	if fault != "" {
		in.Fail(idempotencyHeader, fault)
	}
	if err := in.Admit(func() error { return a.guard.Authorize(c, nil) }); err != nil {
		return err
	}
	if req.AllowedScopes != nil {
		if err := a.guard.Authorize(c, &authz.Resource{AllowedScopes: *req.AllowedScopes}); err != nil {
			return err
		}
	}
	caller := guard.PrincipalOf(c)
	registered, err := a.registry.Register(c.Request.Context(), agent.Registration{
		Attributes:     req.attributes(),
		Caller:         agent.Caller{ID: caller.AgentID, Scopes: caller.Scopes, Origin: guard.Origin(c)},
		IdempotencyKey: key,
	})
	if err != nil {
		return err
	}
	c.Header("Location", agentsPath+"/"+registered.ID.String())
	writeAgent(c, http.StatusCreated, registered)
	return nil
}

// list answers GET /agents.
func (a *api) list(c *gin.Context) error {
	in := httpx.NewInput(c)
	filter := agent.Filter{
		Owner:         in.Text("owner", agent.MaxOwner),
		Type:          in.Enum("agentType", agent.Types()...),
		Status:        in.Enum("status", agent.Statuses()...),
		DeploymentEnv: in.Enum("deploymentEnv", agent.Environments()...),
		Capability:    checked(in, "capability", agent.MaxCapability, agent.CheckCapability),
		Email:         checked(in, "email", agent.MaxEmail, agent.CheckEmail),
	}
	page := in.Page()
	if err := in.Admit(func() error { return a.guard.Authorize(c, nil) }); err != nil {
		return err
	}
	listing, err := a.registry.List(c.Request.Context(), filter, page.Page)
	if err != nil {
		return err
	}
	httpx.JSON(c, http.StatusOK, httpx.NewList(page, listing, responseOf))
	return nil
}

// get answers GET /agents/{agentId}.
func (a *api) get(c *gin.Context) error {
	found, _, err := a.find(c, httpx.NewInput(c))
	if err != nil {
		return err
	}
	writeAgent(c, http.StatusOK, found)
	return nil
}

// change answers PATCH /agents/{agentId}.
func (a *api) change(c *gin.Context) error {
	var req changeRequest
	found, resource, err := a.admit(c, httpx.NewInput(c).JSON(&req))
	if err != nil {
		return err
	}
	if req.AllowedScopes != nil {
		resource.AllowedScopes = *req.AllowedScopes
		if err := a.guard.Authorize(c, &resource); err != nil {
			return err
		}
	}
	if found == nil {
		return agent.ErrNotFound
	}
	changed, err := a.registry.Change(c.Request.Context(), found.ID, req.attributes(), a.demand(c, resource))
	if err != nil {
		return err
	}
	writeAgent(c, http.StatusOK, changed)
	return nil
}

// decommission answers DELETE /agents/{agentId}.
func (a *api) decommission(c *gin.Context) error {
	found, resource, err := a.find(c, httpx.NewInput(c))
	if err != nil {
		return err
	}
	if err := a.registry.Decommission(c.Request.Context(), found.ID, a.demand(c, resource)); err != nil {
		return err
	}
	c.Status(http.StatusNoContent)
	return nil
}

// find is admit for a request that is only about an agent that there is: its last error is agent.ErrNotFound.
func (a *api) find(c *gin.Context, in *httpx.Input) (agent.Agent, authz.Resource, error) {
	found, resource, err := a.admit(c, in)
	if err == nil && found == nil {
		err = agent.ErrNotFound
	}
	if err != nil {
		return agent.Agent{}, authz.Resource{}, err
	}
	return *found, resource, nil
}

// admit finds the agent that the path names, nil where there is none. Its errors are answers: a malformed id, the
// policy's refusal, and what is wrong with the request, in this order.
func (a *api) admit(c *gin.Context, in *httpx.Input) (found *agent.Agent, resource authz.Resource, err error) {
	id := in.PathUUID(agentParam)
	err = in.Admit(func() error {
		if found, resource, err = a.lookUp(c, id); err != nil {
			return err
		}
		return a.guard.Authorize(c, &resource)
	})
	return found, resource, err
}

// lookUp finds the agent that a request is about, and describes it to the policy also where there is none: whether a
// caller may learn that is for the policy to say.
func (a *api) lookUp(c *gin.Context, id uuid.UUID) (*agent.Agent, authz.Resource, error) {
	found, err := a.registry.Agent(c.Request.Context(), id)
	if apperr.CodeOf(err) == apperr.AgentNotFound {
		exists := false
		return nil, authz.Resource{AgentID: id.String(), Exists: &exists}, nil
	}
	if err != nil {
		return nil, authz.Resource{}, err
	}
	return &found, found.Resource(), nil
}

// demand is what must hold when the agent changes: the If-Match of the request, and that the policy still allows it.
// Of what the policy has been told about the agent only the owner and the scopes that it may request can have changed since.
func (a *api) demand(c *gin.Context, asked authz.Resource) agent.Demand {
	return agent.Demand{
		Permit: func(current agent.Agent) error {
			resource := current.Resource()
			if resource.Owner == asked.Owner && slices.Equal(resource.MayRequest, asked.MayRequest) {
				return nil
			}
			resource.AllowedScopes = asked.AllowedScopes
			return a.guard.Authorize(c, &resource)
		},
		IfMatch: agent.ParsePrecondition(c.Request.Header.Values("If-Match")),
		Origin:  guard.Origin(c),
	}
}

// checked is a text parameter with a rule of its own.
func checked(in *httpx.Input, name string, longest int, check func(string) string) *string {
	value := in.Text(name, longest)
	if value == nil {
		return nil
	}
	if reason := check(*value); reason != "" {
		in.Fail(name, reason)
		return nil
	}
	return value
}
