package httpapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/httpx"
	"github.com/sentryagent/agentidp/services/registry/internal/agent"
)

const (
	idempotencyHeader = "Idempotency-Key"
	maxIdempotencyKey = 255
)

// registerRequest is the body of POST /agents. A pointer tells whether the field was given.
type registerRequest struct {
	Email            *string   `json:"email"`
	AgentType        *string   `json:"agentType"`
	Version          *string   `json:"version"`
	Capabilities     *[]string `json:"capabilities"`
	Owner            *string   `json:"owner"`
	DeploymentEnv    *string   `json:"deploymentEnv"`
	AllowedScopes    *[]string `json:"allowedScopes"`
	AllowedResources *[]string `json:"allowedResources"`
}

var _ httpx.Checker = (*registerRequest)(nil)

// Check adds every rule that the request breaks.
func (r *registerRequest) Check(f *apperr.Fields) {
	addAll(f, r.attributes().FaultsOfRegistration())
}

func (r *registerRequest) attributes() agent.Attributes {
	return agent.Attributes{
		Email:            r.Email,
		Type:             r.AgentType,
		Version:          r.Version,
		Capabilities:     r.Capabilities,
		Owner:            r.Owner,
		DeploymentEnv:    r.DeploymentEnv,
		AllowedScopes:    r.AllowedScopes,
		AllowedResources: r.AllowedResources,
	}
}

// changeRequest is the body of PATCH /agents/{agentId}. The immutable fields are known, so that naming one is told
// apart from a misspelt name; what they hold is never looked at.
type changeRequest struct {
	AgentType        *string   `json:"agentType"`
	Version          *string   `json:"version"`
	Capabilities     *[]string `json:"capabilities"`
	Owner            *string   `json:"owner"`
	DeploymentEnv    *string   `json:"deploymentEnv"`
	AllowedScopes    *[]string `json:"allowedScopes"`
	AllowedResources *[]string `json:"allowedResources"`
	Status           *string   `json:"status"`

	AgentID      json.RawMessage `json:"agentId"`
	Email        json.RawMessage `json:"email"`
	RegisteredBy json.RawMessage `json:"registeredBy"`
	CreatedAt    json.RawMessage `json:"createdAt"`
	UpdatedAt    json.RawMessage `json:"updatedAt"`
}

var _ httpx.Checker = (*changeRequest)(nil)

// Check adds every rule that the request breaks.
func (r *changeRequest) Check(f *apperr.Fields) {
	immutable := []struct {
		field string
		value json.RawMessage
	}{
		{"agentId", r.AgentID},
		{"email", r.Email},
		{"registeredBy", r.RegisteredBy},
		{"createdAt", r.CreatedAt},
		{"updatedAt", r.UpdatedAt},
	}
	for _, field := range immutable {
		if field.value != nil {
			f.Add(field.field, "is immutable")
		}
	}
	given := r.attributes()
	addAll(f, given.FaultsOfChange())
	if given == (agent.Attributes{}) && len(f.All()) == 0 {
		f.Add("body", "must name at least one field to change")
	}
}

func (r *changeRequest) attributes() agent.Attributes {
	return agent.Attributes{
		Type:             r.AgentType,
		Version:          r.Version,
		Capabilities:     r.Capabilities,
		Owner:            r.Owner,
		DeploymentEnv:    r.DeploymentEnv,
		AllowedScopes:    r.AllowedScopes,
		AllowedResources: r.AllowedResources,
		Status:           r.Status,
	}
}

func addAll(f *apperr.Fields, faults []apperr.FieldError) {
	for _, fault := range faults {
		f.Add(fault.Field, fault.Reason)
	}
}

// agentResponse is an agent as its readers see it.
type agentResponse struct {
	AgentID          uuid.UUID  `json:"agentId"`
	Email            string     `json:"email"`
	AgentType        string     `json:"agentType"`
	Version          string     `json:"version"`
	Capabilities     []string   `json:"capabilities"`
	Owner            string     `json:"owner"`
	DeploymentEnv    string     `json:"deploymentEnv"`
	AllowedScopes    []string   `json:"allowedScopes"`
	AllowedResources []string   `json:"allowedResources"`
	Status           string     `json:"status"`
	RegisteredBy     *uuid.UUID `json:"registeredBy"`
	CreatedAt        time.Time  `json:"createdAt"`
	UpdatedAt        time.Time  `json:"updatedAt"`
}

func responseOf(a agent.Agent) agentResponse {
	return agentResponse{
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
	}
}

func writeAgent(c *gin.Context, status int, a agent.Agent) {
	c.Header("ETag", agent.ETag(a.Revision))
	httpx.JSON(c, status, responseOf(a))
}

// idempotencyKey returns the caller's key, "" without one, and what is wrong with it.
func idempotencyKey(h http.Header) (key, fault string) {
	lines := h.Values(idempotencyHeader)
	switch {
	case len(lines) == 0:
		return "", ""
	case len(lines) > 1:
		return "", "must be given once"
	}
	key = lines[0]
	if len(key) < 1 || len(key) > maxIdempotencyKey {
		return "", fmt.Sprintf("must be 1 to %d visible ASCII characters", maxIdempotencyKey)
	}
	for i := range len(key) {
		if key[i] <= ' ' || key[i] > '~' {
			return "", fmt.Sprintf("must be 1 to %d visible ASCII characters", maxIdempotencyKey)
		}
	}
	return key, ""
}
