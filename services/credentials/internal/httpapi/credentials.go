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

func (a *API) create(c *gin.Context) error {
	agentID, err := a.admitAgent(c)
	if err != nil {
		return err
	}
	var req createRequest
	if err := httpx.DecodeJSONOrEmpty(c, &req); err != nil {
		return err
	}
	issued, err := a.credentials.Create(c.Request.Context(), agentID, req.ExpiresAt, guard.Origin(c))
	if err != nil {
		return err
	}
	respondIssued(c, http.StatusCreated, issued)
	return nil
}

func (a *API) list(c *gin.Context) error {
	agentID, err := a.admitAgent(c)
	if err != nil {
		return err
	}
	q := httpx.NewQuery(c)
	status := q.Enum("status", string(secret.Active), string(secret.Revoked))
	page := q.Page()
	if err := q.Err(); err != nil {
		return err
	}
	listing, err := a.credentials.List(c.Request.Context(), agentID, (*secret.Status)(status), page.Page)
	if err != nil {
		return err
	}
	httpx.JSON(c, http.StatusOK, httpx.NewList(page, listing, wire))
	return nil
}

func (a *API) rotate(c *gin.Context) error {
	agentID, credentialID, err := a.admitCredential(c)
	if err != nil {
		return err
	}
	var req rotateRequest
	if err := httpx.DecodeJSONOrEmpty(c, &req); err != nil {
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

func (a *API) revoke(c *gin.Context) error {
	agentID, credentialID, err := a.admitCredential(c)
	if err != nil {
		return err
	}
	if err := a.credentials.Revoke(c.Request.Context(), agentID, credentialID, guard.Origin(c)); err != nil {
		return err
	}
	c.Status(http.StatusNoContent)
	return nil
}

// admitAgent reads the agent of the path, and asks the policy whether the caller
// may touch its credentials.
func (a *API) admitAgent(c *gin.Context) (uuid.UUID, error) {
	var f apperr.Fields
	agentID := pathID(c, "agentId", &f)
	if err := f.Err(); err != nil {
		return uuid.Nil, err
	}
	return agentID, a.authorize(c, agentID)
}

// admitCredential is admitAgent for a route that also names a credential.
func (a *API) admitCredential(c *gin.Context) (agentID, credentialID uuid.UUID, err error) {
	var f apperr.Fields
	agentID = pathID(c, "agentId", &f)
	credentialID = pathID(c, "credentialId", &f)
	if err := f.Err(); err != nil {
		return uuid.Nil, uuid.Nil, err
	}
	return agentID, credentialID, a.authorize(c, agentID)
}

func pathID(c *gin.Context, name string, f *apperr.Fields) uuid.UUID {
	id, ok := httpx.ParseUUID(c.Param(name))
	if !ok {
		f.Add(name, "must be a UUID in lower case")
	}
	return id
}

func (a *API) authorize(c *gin.Context, agentID uuid.UUID) error {
	return a.guard.Authorize(c, &authz.Resource{AgentID: agentID.String()})
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
