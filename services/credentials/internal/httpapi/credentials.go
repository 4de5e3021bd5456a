package httpapi

import (
	"net/http"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/authz"
	"github.com/sentryagent/agentidp/pkg/guard"
	"github.com/sentryagent/agentidp/pkg/httpx"
	"github.com/sentryagent/agentidp/services/credentials/internal/secret"
)

// credential is the wire form of a credential. Every field is always there.
type credential struct {
	CredentialID             uuid.UUID     `json:"credentialId"`
	ClientID                 uuid.UUID     `json:"clientId"`
	Status                   secret.Status `json:"status"`
	CreatedAt                time.Time     `json:"createdAt"`
	ExpiresAt                *time.Time    `json:"expiresAt"`
	RotatedAt                *time.Time    `json:"rotatedAt"`
	RevokedAt                *time.Time    `json:"revokedAt"`
	LastUsedAt               *time.Time    `json:"lastUsedAt"`
	PreviousSecretExpiresAt  *time.Time    `json:"previousSecretExpiresAt"`
	PreviousSecretLastUsedAt *time.Time    `json:"previousSecretLastUsedAt"`
}

// issuedCredential is the one wire form that carries a secret.
type issuedCredential struct {
	credential

	ClientSecret string `json:"clientSecret"`
}

// createRequest is the body of a creation; {} and no body are the same.
type createRequest struct {
	ExpiresAt *time.Time `json:"expiresAt" null:"allowed"`
}

// Check implements httpx.Checker. The domain checks again, at the time of the creation;
// here an expiry that is over is named with all else that is wrong.
func (r *createRequest) Check(f *apperr.Fields) {
	if r.ExpiresAt == nil {
		return
	}
	if reason := secret.ExpiryFault(*r.ExpiresAt, time.Now()); reason != "" {
		f.Add("expiresAt", reason)
	}
}

// rotateRequest is the body of a rotation; {} and no body are the same.
type rotateRequest struct {
	GracePeriodSeconds int64 `json:"gracePeriodSeconds"`
}

// Check implements httpx.Checker.
func (r *rotateRequest) Check(f *apperr.Fields) {
	if most := int64(secret.MaxGrace / time.Second); r.GracePeriodSeconds < 0 || r.GracePeriodSeconds > most {
		f.Add("gracePeriodSeconds", "must be between 0 and 86400")
	}
}

func (a *api) create(c *gin.Context) error {
	var req createRequest
	in := httpx.NewInput(c).JSONOrEmpty(&req)
	agentID := in.PathUUID("agentId")
	if err := a.admit(c, in, agentID); err != nil {
		return err
	}
	issued, err := a.credentials.Create(c.Request.Context(), agentID, req.ExpiresAt, guard.Origin(c))
	if err != nil {
		return err
	}
	respondIssued(c, http.StatusCreated, issued)
	return nil
}

func (a *api) list(c *gin.Context) error {
	in := httpx.NewInput(c)
	status := in.Enum("status", string(secret.Active), string(secret.Revoked))
	page := in.Page()
	agentID := in.PathUUID("agentId")
	if err := a.admit(c, in, agentID); err != nil {
		return err
	}
	listing, err := a.credentials.List(c.Request.Context(), agentID, (*secret.Status)(status), page.Page)
	if err != nil {
		return err
	}
	httpx.JSON(c, http.StatusOK, httpx.NewList(page, listing, wire))
	return nil
}

func (a *api) rotate(c *gin.Context) error {
	var req rotateRequest
	in := httpx.NewInput(c).JSONOrEmpty(&req)
	agentID, credentialID, err := a.admitCredential(c, in)
	if err != nil {
		return err
	}
	grace := time.Duration(req.GracePeriodSeconds) * time.Second
	issued, err := a.credentials.Rotate(c.Request.Context(), agentID, credentialID, grace, guard.Origin(c))
	if err != nil {
		return err
	}
	respondIssued(c, http.StatusOK, issued)
	return nil
}

func (a *api) revoke(c *gin.Context) error {
	agentID, credentialID, err := a.admitCredential(c, httpx.NewInput(c))
	if err != nil {
		return err
	}
	if err := a.credentials.Revoke(c.Request.Context(), agentID, credentialID, guard.Origin(c)); err != nil {
		return err
	}
	c.Status(http.StatusNoContent)
	return nil
}

// admit asks the policy whether the caller may touch the agent's credentials. Its error
// is also what is wrong with the request.
func (a *api) admit(c *gin.Context, in *httpx.Input, agentID uuid.UUID) error {
	return in.Admit(func() error { return a.guard.Authorize(c, &authz.Resource{AgentID: agentID.String()}) })
}

// admitCredential is admit for a route that also names a credential.
func (a *api) admitCredential(c *gin.Context, in *httpx.Input) (agentID, credentialID uuid.UUID, err error) {
	agentID, credentialID = in.PathUUID("agentId"), in.PathUUID("credentialId")
	return agentID, credentialID, a.admit(c, in, agentID)
}

func respondIssued(c *gin.Context, status int, issued secret.Issued) {
	httpx.NoStore(c)
	httpx.JSON(c, status, issuedCredential{credential: wire(issued.Credential), ClientSecret: issued.Secret.Reveal()})
}

func wire(c secret.Credential) credential {
	return credential{
		CredentialID: c.ID, ClientID: c.AgentID, Status: c.Status,
		CreatedAt: c.CreatedAt, ExpiresAt: c.ExpiresAt, RotatedAt: c.RotatedAt, RevokedAt: c.RevokedAt,
		LastUsedAt:               c.LastUsedAt,
		PreviousSecretExpiresAt:  c.PreviousValidUntil,
		PreviousSecretLastUsedAt: c.PreviousLastUsedAt,
	}
}
