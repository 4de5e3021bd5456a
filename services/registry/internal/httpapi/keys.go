package httpapi

import (
	"encoding/json"
	"net/http"

	"github.com/gin-gonic/gin"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/httpx"
	"github.com/sentryagent/agentidp/pkg/registryapi"
	"github.com/sentryagent/agentidp/services/registry/internal/agent"
)

// keysRequest is the body of PUT /agents/{agentId}/keys. What is in it may be secret by mistake, so none of it is ever sent
// back or logged before it was found to be public.
type keysRequest struct {
	JWKS    json.RawMessage `json:"jwks"`
	JWKSURI json.RawMessage `json:"jwksUri"`

	keys agent.Keys
}

var _ httpx.Checker = (*keysRequest)(nil)

// Check adds every rule that the request breaks.
func (r *keysRequest) Check(f *apperr.Fields) {
	keys, faults := agent.KeysFrom(r.JWKS, r.JWKSURI)
	addAll(f, faults)
	r.keys = keys
}

// setKeys answers PUT /agents/{agentId}/keys.
func (a *api) setKeys(c *gin.Context) error {
	var req keysRequest
	found, resource, err := a.find(c, httpx.NewInput(c).JSON(&req))
	if err != nil {
		return err
	}
	changed, err := a.registry.SetKeys(c.Request.Context(), found.ID, req.keys, a.demand(c, resource))
	if err != nil {
		return err
	}
	writeKeys(c, changed, req.keys)
	return nil
}

// getKeys answers GET /agents/{agentId}/keys.
func (a *api) getKeys(c *gin.Context) error {
	found, _, err := a.find(c, httpx.NewInput(c))
	if err != nil {
		return err
	}
	current, keys, err := a.registry.AgentAndKeys(c.Request.Context(), found.ID)
	if err != nil {
		return err
	}
	if keys == nil {
		return agent.ErrKeysNotFound
	}
	writeKeys(c, current, *keys)
	return nil
}

// removeKeys answers DELETE /agents/{agentId}/keys.
func (a *api) removeKeys(c *gin.Context) error {
	found, resource, err := a.find(c, httpx.NewInput(c))
	if err != nil {
		return err
	}
	if err := a.registry.RemoveKeys(c.Request.Context(), found.ID, a.demand(c, resource)); err != nil {
		return err
	}
	c.Status(http.StatusNoContent)
	return nil
}

// writeKeys answers the keys with the ETag of the agent that they are a part of.
func writeKeys(c *gin.Context, of agent.Agent, keys agent.Keys) {
	c.Header("ETag", agent.ETag(of.Revision))
	httpx.JSON(c, http.StatusOK, keysResponseOf(keys))
}

func keysResponseOf(keys agent.Keys) registryapi.AgentKeys {
	return registryapi.AgentKeys{JWKS: keys.JWKS, JWKSURI: keys.URI}
}
