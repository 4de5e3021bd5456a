package httpapi

import (
	"net/http"

	"github.com/gin-gonic/gin"

	"github.com/sentryagent/agentidp/pkg/guard"
	"github.com/sentryagent/agentidp/pkg/httpx"
	"github.com/sentryagent/agentidp/pkg/ratelimit"
	"github.com/sentryagent/agentidp/services/token/internal/issue"
)

const grantClientCredentials = "client_credentials"

// tokenResponse is RFC 6749 §5.1.
type tokenResponse struct {
	AccessToken string `json:"access_token"`
	TokenType   string `json:"token_type"`
	ExpiresIn   int64  `json:"expires_in"`
	Scope       string `json:"scope"`
}

// token is POST /token: the client credentials grant (RFC 6749 §4.4).
func (a *api) token(c *gin.Context) {
	httpx.NoStore(c)
	auth, err := readAuthorization(c.Request.Header)
	speak := dialect{pure: true, basic: auth.scheme != ""}
	if err != nil {
		a.refuseToken(c, err, speak)
		return
	}
	request, err := readTokenRequest(c, auth)
	if err != nil {
		a.refuseToken(c, err, speak)
		return
	}
	token, window, err := a.Issuer.Issue(c.Request.Context(), request)
	ratelimit.WriteHeaders(c.Writer.Header(), window)
	if err != nil {
		writeProblem(c, err, speak)
		return
	}
	httpx.JSON(c, http.StatusOK, tokenResponse{
		AccessToken: token.Access,
		TokenType:   "Bearer",
		ExpiresIn:   int64(token.ExpiresIn.Seconds()),
		Scope:       token.Scope,
	})
}

func (a *api) refuseToken(c *gin.Context, err error, speak dialect) {
	a.Issuer.Refused(err)
	ratelimit.WriteHeaders(c.Writer.Header(), a.Budget.Untouched())
	writeProblem(c, err, speak)
}

func readTokenRequest(c *gin.Context, auth authentication) (issue.Request, error) {
	body, err := readForm(c)
	if err != nil {
		return issue.Request{}, err
	}
	switch body.get("grant_type") {
	case grantClientCredentials:
	case "":
		return issue.Request{}, errMissing("grant_type")
	default:
		return issue.Request{}, issue.RefuseField(issue.UnsupportedGrantType, "grant_type",
			"The only grant type is "+grantClientCredentials+".")
	}
	credentials, err := clientCredentials(auth, body)
	if err != nil {
		return issue.Request{}, err
	}
	return issue.Request{
		Credentials: credentials, Scope: body.get("scope"), Resources: body.resources, Origin: guard.Origin(c),
	}, nil
}
