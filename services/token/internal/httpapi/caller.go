package httpapi

import (
	"github.com/gin-gonic/gin"

	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/authn"
	"github.com/sentryagent/agentidp/pkg/authz"
	"github.com/sentryagent/agentidp/pkg/guard"
	"github.com/sentryagent/agentidp/pkg/ratelimit"
	"github.com/sentryagent/agentidp/pkg/revocation"
	"github.com/sentryagent/agentidp/services/token/internal/issue"
)

// caller is who asks about a token, by bearer token or client authentication.
type caller struct {
	bearer    *authn.Principal // nil for a client that authenticated itself
	origin    auditevent.Origin
	authorize func(resource *authz.Resource) error
	dialect   dialect
}

// admit finds out who asks and lets them in.
func (a *api) admit(c *gin.Context) (caller, error) {
	who, err := a.identify(c)
	if err != nil {
		return who, err
	}
	_, err = a.enter(c, &who)
	return who, err
}

// enter lets in whom identify found by a bearer token, and tells what the guard's cache says
// of other tokens; a client was let in when it authenticated, and nothing is looked up.
func (a *api) enter(c *gin.Context, who *caller, others ...revocation.Query) ([]revocation.Verdict, error) {
	if who.bearer == nil {
		return nil, nil
	}
	verdicts, err := a.Guard.Enter(c, *who.bearer, others...)
	if err != nil {
		return nil, err
	}
	who.origin = guard.Origin(c)
	who.authorize = func(resource *authz.Resource) error { return a.Guard.Authorize(c, resource) }
	return verdicts, nil
}

// identify finds out who asks. A bearer token is looked at before the body is; with
// client_secret_post and private_key_jwt the body is where the client is named.
func (a *api) identify(c *gin.Context) (caller, error) {
	auth, err := readAuthorization(c.Request.Header)
	if auth.scheme != "bearer" { // the guard tells of the window otherwise
		ratelimit.WriteHeaders(c.Writer.Header(), a.Budget.Untouched())
	}
	who := caller{dialect: dialect{basic: auth.basic()}}
	if err != nil {
		return who, err
	}
	byClient := auth.scheme == "basic"
	if auth.scheme == "" && isForm(c.Request.Header) {
		body, err := a.form(c)
		if err != nil {
			return who, err
		}
		byClient = body.authenticates()
	}
	if byClient {
		return a.admitClient(c, auth, who)
	}
	who.dialect.basic = false
	principal, err := a.Guard.Verify(c)
	if err != nil {
		return who, err
	}
	who.bearer = &principal
	return who, nil
}

func (a *api) admitClient(c *gin.Context, auth authentication, who caller) (caller, error) {
	ctx := c.Request.Context()
	body, err := a.form(c)
	if err != nil {
		return who, err
	}
	credentials, err := clientCredentials(auth, body)
	if err != nil {
		return who, err
	}
	who.origin = guard.Origin(c)
	agent, err := a.Clients.Authenticate(ctx, credentials, who.origin)
	if err != nil {
		ratelimit.WriteHeaders(c.Writer.Header(), issue.WindowOf(err, a.Budget.Untouched()))
		return who, err
	}
	window, err := a.Budget.Request(ctx, agent.ID)
	if err != nil {
		return who, err
	}
	ratelimit.WriteHeaders(c.Writer.Header(), window)
	if err := window.Err(); err != nil {
		return who, err
	}
	who.origin.ActorID, who.dialect.client = &agent.ID, true
	if err := a.Clients.Active(ctx, agent, who.origin); err != nil {
		return who, err
	}
	who.authorize = func(resource *authz.Resource) error {
		return a.Guard.AuthorizeClient(c, agent.ID.String(), resource)
	}
	return who, nil
}

type formKey struct{}

// form reads the body once per request.
func (a *api) form(c *gin.Context) (form, error) {
	if known, ok := c.Get(formKey{}); ok {
		if body, ok := known.(form); ok {
			return body, nil
		}
	}
	body, err := readForm(c)
	if err != nil {
		return form{}, err
	}
	c.Set(formKey{}, body)
	return body, nil
}

// tokenParameter is the token that is asked about. token_type_hint may say
// anything: there is one type of token (RFC 7009 §2.1, RFC 7662 §2.1).
func (a *api) tokenParameter(c *gin.Context) (string, error) {
	body, err := a.form(c)
	if err != nil {
		return "", err
	}
	if err := checkMethods(c.GetHeader("Authorization") != "", body); err != nil {
		return "", err
	}
	if body.get("token") == "" {
		return "", errMissing("token")
	}
	return body.get("token"), nil
}
