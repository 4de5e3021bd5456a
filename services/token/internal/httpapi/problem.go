package httpapi

import (
	"cmp"
	"errors"
	"net/http"

	"github.com/gin-gonic/gin"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/httpx"
	"github.com/sentryagent/agentidp/services/token/internal/issue"
)

const (
	challengeBasic  = `Basic realm="agentidp"`
	challengeBearer = `Bearer realm="agentidp"` // #nosec G101 -- words of the protocol
)

// problem is the body of an error at the token endpoints: in the words of OAuth,
// and, where the endpoint speaks both languages, in those of the other routes.
type problem struct {
	Error       string         `json:"error"`
	Description string         `json:"error_description"`
	Code        apperr.Code    `json:"code,omitempty"`
	Message     string         `json:"message,omitempty"`
	Details     map[string]any `json:"details,omitempty"`
}

// dialect says how an endpoint speaks of errors.
type dialect struct {
	// pure: RFC 6749 §5.2 alone, as /token does, and its statuses.
	pure bool
	// basic: the client used HTTP Basic, so that a 401 asks for it.
	basic bool
	// client: a client proved its identity, so that no bearer token can be at fault.
	client bool
}

// writeProblem answers with err.
func writeProblem(c *gin.Context, err error, speak dialect) {
	var refusal *issue.Refusal
	var known *apperr.Error
	if errors.As(err, &refusal) {
		known = fromRefusal(refusal, speak)
	} else {
		known = apperr.From(err)
	}
	oauth := oauthCode(known, refusal, speak)
	body := problem{Error: oauth, Description: describe(known.Message)}
	status := known.Code.Status()
	if !speak.pure || outsideRFC(status) {
		body.Code, body.Message, body.Details = known.Code, known.Message, known.Details
	}
	_ = c.Error(err) // read by the access log
	c.Abort()
	if known.Challenge != "" {
		c.Header("WWW-Authenticate", known.Challenge)
	}
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		c.Header("Retry-After", httpx.RetrySeconds(known.RetryAfter))
	}
	httpx.NoStore(c)
	httpx.JSON(c, status, body)
}

// outsideRFC are statuses that RFC 6749 has no error code of its own for, and that
// /token explains with code and message as well.
func outsideRFC(status int) bool {
	return status == http.StatusTooManyRequests || status == http.StatusRequestEntityTooLarge ||
		status == http.StatusInternalServerError
}

func fromRefusal(refusal *issue.Refusal, speak dialect) *apperr.Error {
	code := refusal.Kind.Code()
	if speak.pure && code == apperr.UnsupportedMediaType {
		code = apperr.ValidationError // RFC 6749 §5.2: invalid_request is a 400
	}
	// What a refusal quotes may be what the client should have sent elsewhere, and clients log what they are told.
	description, field := httpx.WithoutSecrets(refusal.Description), httpx.WithoutSecrets(refusal.Field)
	problem := apperr.New(code, description).WithRetryAfter(refusal.RetryAfter).Because(refusal)
	switch {
	case code == apperr.ValidationError:
		problem = problem.With(map[string]any{
			"errors": []apperr.FieldError{{Field: cmp.Or(field, "body"), Reason: description}},
		})
	case code == apperr.Forbidden:
		problem = problem.With(map[string]any{"reason": description})
	case code == apperr.Unauthorized && speak.basic:
		problem = problem.WithChallenge(challengeBasic)
	case code == apperr.Unauthorized && !speak.pure:
		problem = problem.WithChallenge(challengeBearer)
	}
	return problem
}

// oauthCode is the error code of RFC 6749 §5.2, or RFC 6750 §3.1 where a bearer
// token is at fault.
func oauthCode(known *apperr.Error, refusal *issue.Refusal, speak dialect) string {
	if refusal != nil {
		return refusal.Kind.OAuth()
	}
	switch known.Code {
	case apperr.Unauthorized:
		return "invalid_token"
	case apperr.Forbidden:
		if speak.client {
			return issue.UnauthorizedClient.OAuth()
		}
		return "insufficient_scope"
	case apperr.RateLimitExceeded, apperr.ServiceUnavailable:
		return "temporarily_unavailable"
	case apperr.InternalServerError:
		return "server_error"
	default:
		return "invalid_request"
	}
}
