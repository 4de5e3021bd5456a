package httpapi

import (
	"net/http"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/httpx"
	"github.com/sentryagent/agentidp/pkg/revocation"
	"github.com/sentryagent/agentidp/pkg/tokenapi"
)

// checkRequest is tokenapi.CheckRequest, with what is absent told from what is zero.
type checkRequest struct {
	TokenID  *uuid.UUID `json:"jti"`
	AgentID  *uuid.UUID `json:"sub"`
	IssuedAt *time.Time `json:"issuedAt"`
}

// Check names what is missing.
func (r *checkRequest) Check(fields *apperr.Fields) {
	const reason = "is required"
	if r.TokenID == nil {
		fields.Add("jti", reason)
	}
	if r.AgentID == nil {
		fields.Add("sub", reason)
	}
	if r.IssuedAt == nil {
		fields.Add("issuedAt", reason)
	}
}

// checkRevocation is POST /internal/v1/revocations/check: whether a token is
// refused, from the truth and not from Redis.
func (a *api) checkRevocation(c *gin.Context) error {
	var request checkRequest
	if err := httpx.NewInput(c).JSON(&request).Err(); err != nil {
		return err
	}
	revoked, err := a.Truth(c.Request.Context(), revocation.Query{
		TokenID: request.TokenID.String(), AgentID: *request.AgentID, IssuedAt: *request.IssuedAt,
	})
	if err != nil {
		return err
	}
	httpx.JSON(c, http.StatusOK, tokenapi.CheckResponse{Revoked: revoked})
	return nil
}
