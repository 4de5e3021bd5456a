package httpapi

import (
	"cmp"
	"net/http"

	"github.com/gin-gonic/gin"

	"github.com/sentryagent/agentidp/pkg/authz"
	"github.com/sentryagent/agentidp/pkg/httpx"
	"github.com/sentryagent/agentidp/services/token/internal/issue"
)

// inactive is all that is said about what is not a live token (RFC 7662 §2.2).
type inactive struct {
	Active bool `json:"active"`
}

// active describes a live token (RFC 7662 §2.2): its claims, an object with members, and two more members.
func active(claims []byte) []byte {
	const before, after = `{"active":true,`, `,"token_type":"Bearer"}`
	body := make([]byte, 0, len(before)+len(claims)+len(after))
	body = append(body, before...)
	body = append(body, claims[len("{"):len(claims)-len("}")]...)
	return append(body, after...)
}

// introspect is POST /token/introspect.
func (a *api) introspect(c *gin.Context) {
	httpx.NoStore(c)
	who, answer, err := a.introspection(c)
	switch {
	case err != nil:
		writeProblem(c, err, who.dialect)
	case answer.Active:
		c.Data(http.StatusOK, mediaJSON, active(answer.Claims))
	default:
		httpx.JSON(c, http.StatusOK, inactive{})
	}
}

// introspection verifies the token that is asked about before the caller is let in, so that one look-up is about both
// their tokens. What is wrong with the question is told to nobody who is not let in.
func (a *api) introspection(c *gin.Context) (caller, issue.Introspection, error) {
	who, err := a.identify(c)
	if err != nil {
		return who, issue.Introspection{}, err
	}
	asked, askedErr := a.inquire(c)
	verdicts, err := a.enter(c, &who, asked.Queries()...)
	if err != nil {
		return who, issue.Introspection{}, err
	}
	if err := cmp.Or(who.authorize(nil), askedErr); err != nil {
		return who, issue.Introspection{}, err
	}
	answer, err := a.Introspector.Introspect(c.Request.Context(), asked, verdicts, who.origin)
	return who, answer, err
}

func (a *api) inquire(c *gin.Context) (issue.Inquiry, error) {
	token, err := a.tokenParameter(c)
	if err != nil {
		return issue.Inquiry{}, err
	}
	return a.Introspector.Inquire(c.Request.Context(), token)
}

// revoke is POST /token/revoke. It answers 200 also for what is no token of ours,
// or not any more (RFC 7009 §2.2).
func (a *api) revoke(c *gin.Context) {
	httpx.NoStore(c)
	who, err := a.admit(c)
	if err == nil {
		err = a.revocation(c, who)
	}
	if err != nil {
		writeProblem(c, err, who.dialect)
		return
	}
	// Nobody has to read it (RFC 7009 §2.2), but there are clients that take only JSON for an answer.
	httpx.JSON(c, http.StatusOK, struct{}{})
}

func (a *api) revocation(c *gin.Context, who caller) error {
	token, err := a.tokenParameter(c)
	if err != nil {
		return err
	}
	ctx := c.Request.Context()
	holder, revocable, err := a.Revoker.Holder(ctx, token)
	if err != nil {
		return err
	}
	// The policy is asked in any case: with nothing to protect, whether the caller
	// may come at all.
	var resource *authz.Resource
	if revocable {
		resource = &authz.Resource{AgentID: holder.AgentID.String(), Owner: holder.Owner}
	}
	if err := who.authorize(resource); err != nil || !revocable {
		return err
	}
	return a.Revoker.Revoke(ctx, holder, who.origin)
}
