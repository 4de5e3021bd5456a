package httpapi

import (
	"fmt"
	"net/http"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/credentialsapi"
	"github.com/sentryagent/agentidp/pkg/guard"
	"github.com/sentryagent/agentidp/pkg/httpx"
	"github.com/sentryagent/agentidp/services/credentials/internal/secret"
)

type verifyRequest credentialsapi.VerifyRequest

// Check implements httpx.Checker. An empty secret is a wrong one, not an error.
func (r *verifyRequest) Check(f *apperr.Fields) {
	requireID(f, "clientId", r.ClientID)
}

type screenRequest credentialsapi.ScreenRequest

// Check implements httpx.Checker. A client without an id has no secrets.
func (r *screenRequest) Check(f *apperr.Fields) {
	if len(r.Secrets) > credentialsapi.MaxScreened {
		f.Add("secrets", fmt.Sprintf("must have at most %d entries", credentialsapi.MaxScreened))
	}
}

type usageRequest credentialsapi.UsageRequest

// Check implements httpx.Checker.
func (r *usageRequest) Check(f *apperr.Fields) {
	if len(r.Uses) > credentialsapi.MaxUses {
		f.Add("uses", fmt.Sprintf("must have at most %d entries", credentialsapi.MaxUses))
		return
	}
	for i, u := range r.Uses {
		requireID(f, fmt.Sprintf("uses[%d].credentialId", i), u.CredentialID)
		if u.UsedAt.IsZero() {
			f.Add(fmt.Sprintf("uses[%d].usedAt", i), "is required")
		}
	}
}

type operatorRequest credentialsapi.OperatorCredentialRequest

// Check implements httpx.Checker.
func (r *operatorRequest) Check(f *apperr.Fields) {
	requireID(f, "agentId", r.AgentID)
}

type operatorRevocation credentialsapi.OperatorRevocation

// Check implements httpx.Checker.
func (r *operatorRevocation) Check(f *apperr.Fields) {
	requireID(f, "agentId", r.AgentID)
	requireID(f, "credentialId", r.CredentialID)
}

func requireID(f *apperr.Fields, field string, id uuid.UUID) {
	if id == uuid.Nil {
		f.Add(field, "is required")
	}
}

func (a *api) verify(c *gin.Context) error {
	httpx.NoStore(c)
	var req verifyRequest
	if err := httpx.NewInput(c).JSON(&req).Err(); err != nil {
		return err
	}
	v, err := a.credentials.Verify(c.Request.Context(), req.ClientID, req.Secret)
	if err != nil {
		return err
	}
	httpx.JSON(c, http.StatusOK, credentialsapi.VerifyResponse{
		Valid: v.Valid, Reason: v.Reason, CredentialID: v.CredentialID, Previous: v.Previous, ValidUntil: v.ValidUntil,
	})
	return nil
}

func (a *api) screen(c *gin.Context) error {
	httpx.NoStore(c)
	var req screenRequest
	if err := httpx.NewInput(c).JSON(&req).Err(); err != nil {
		return err
	}
	presented := make([]secret.Presented, len(req.Secrets))
	for i, s := range req.Secrets {
		presented[i] = secret.Presented(s)
	}
	plausible, err := a.credentials.Screen(c.Request.Context(), presented)
	if err != nil {
		return err
	}
	httpx.JSON(c, http.StatusOK, credentialsapi.ScreenResponse{Plausible: plausible})
	return nil
}

func (a *api) recordUses(c *gin.Context) error {
	var req usageRequest
	if err := httpx.NewInput(c).JSON(&req).Err(); err != nil {
		return err
	}
	uses := make([]secret.Use, len(req.Uses))
	for i, u := range req.Uses {
		uses[i] = secret.Use(u)
	}
	if err := a.credentials.RecordUses(c.Request.Context(), uses); err != nil {
		return err
	}
	c.Status(http.StatusNoContent)
	return nil
}

func (a *api) createForOperator(c *gin.Context) error {
	var req operatorRequest
	if err := httpx.NewInput(c).JSON(&req).Err(); err != nil {
		return err
	}
	httpx.NoStore(c)
	issued, exists, err := a.credentials.CreateForOperator(c.Request.Context(), secret.ForOperator(req), guard.Origin(c))
	if err != nil {
		return err
	}
	if exists {
		httpx.JSON(c, http.StatusOK, credentialsapi.OperatorCredentialWire{Exists: true})
		return nil
	}
	httpx.JSON(c, http.StatusCreated, credentialsapi.OperatorCredentialWire{
		CredentialID: &issued.ID, ClientID: &issued.AgentID, ClientSecret: issued.Secret.Reveal(), CreatedAt: &issued.CreatedAt,
	})
	return nil
}

func (a *api) revokeForOperator(c *gin.Context) error {
	var req operatorRevocation
	if err := httpx.NewInput(c).JSON(&req).Err(); err != nil {
		return err
	}
	if err := a.credentials.Revoke(c.Request.Context(), req.AgentID, req.CredentialID, guard.Origin(c)); err != nil {
		return err
	}
	c.Status(http.StatusNoContent)
	return nil
}
