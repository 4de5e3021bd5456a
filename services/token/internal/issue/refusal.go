package issue

import (
	"errors"
	"time"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/ratelimit"
)

// Kind says why a request is refused.
type Kind int

// The kinds of refusal.
const (
	InvalidRequest Kind = iota
	UnsupportedMediaType
	TooLarge
	UnsupportedGrantType
	InvalidScope
	InvalidTarget
	InvalidClient
	UnauthorizedClient
	TooManyRequests
	Unavailable
)

// OAuth is the error code of RFC 6749 §5.2, or of RFC 8707 §2. There is none for a rate limit;
// temporarily_unavailable (§4.1.2.1: "temporary overloading") says it best.
func (k Kind) OAuth() string {
	switch k {
	case UnsupportedGrantType:
		return "unsupported_grant_type"
	case InvalidScope:
		return "invalid_scope"
	case InvalidTarget:
		return "invalid_target"
	case InvalidClient:
		return "invalid_client"
	case UnauthorizedClient:
		return "unauthorized_client"
	case TooManyRequests, Unavailable:
		return "temporarily_unavailable"
	default:
		return "invalid_request"
	}
}

// Code is the same in the words of the other endpoints.
func (k Kind) Code() apperr.Code {
	switch k {
	case UnsupportedMediaType:
		return apperr.UnsupportedMediaType
	case TooLarge:
		return apperr.PayloadTooLarge
	case InvalidClient:
		return apperr.Unauthorized
	case UnauthorizedClient:
		return apperr.Forbidden
	case TooManyRequests:
		return apperr.RateLimitExceeded
	case Unavailable:
		return apperr.ServiceUnavailable
	default:
		return apperr.ValidationError
	}
}

// Refusal is an answer that is not a token. Description is public, in the
// characters that RFC 6749 §5.2 allows; the cause is for the log.
type Refusal struct { //nolint:errname // it is an answer of the protocol before it is an error
	Kind        Kind
	Description string
	// Field is the parameter at fault, where one is.
	Field string
	// RetryAfter is set for TooManyRequests and Unavailable.
	RetryAfter time.Duration
	// Window is the rate window of a client that proved who it is, where that is full.
	Window *ratelimit.Window

	cause error
}

// Error is the text for the log.
func (r *Refusal) Error() string {
	text := r.Kind.OAuth() + ": " + r.Description
	if r.cause != nil {
		text += ": " + r.cause.Error()
	}
	return text
}

// Unwrap returns the cause, nil if there is none.
func (r *Refusal) Unwrap() error { return r.cause }

// Refuse makes a refusal.
func Refuse(kind Kind, description string) *Refusal {
	return &Refusal{Kind: kind, Description: description}
}

// RefuseField makes a refusal that names the parameter at fault.
func RefuseField(kind Kind, field, description string) *Refusal {
	return &Refusal{Kind: kind, Field: field, Description: description}
}

// errNotAllowed tells a refusal that depends on what is known of the agent.
var errNotAllowed = errors.New("the agent is not allowed it")

func notAllowed(kind Kind, field, description string) *Refusal {
	refusal := RefuseField(kind, field, description)
	refusal.cause = errNotAllowed
	return refusal
}

// errInvalidClient is one text for every way in which client authentication
// fails, so that the answer does not tell which client ids exist.
func errInvalidClient() *Refusal { return Refuse(InvalidClient, "Client authentication failed.") }

func tooMany(description string, retryAfter time.Duration) *Refusal {
	return &Refusal{Kind: TooManyRequests, Description: description, RetryAfter: retryAfter}
}

// rateLimited refuses a client that proved who it is and may not ask again yet.
func rateLimited(window ratelimit.Window) error {
	refusal := tooMany("Too many requests from this client.", window.RetryAfter)
	refusal.Window = &window
	return refusal
}

// WindowOf is the rate window to tell of with an err that ended client authentication: untouched, unless the client has
// proved who it is and that is what it was refused for.
func WindowOf(err error, untouched ratelimit.Window) ratelimit.Window {
	var refusal *Refusal
	if errors.As(err, &refusal) && refusal.Window != nil {
		return *refusal.Window
	}
	return untouched
}

// errTooManyFailures is one text for a client and for an address past its limit.
func errTooManyFailures(retryAfter time.Duration) *Refusal {
	return tooMany("Too many failed authentications.", retryAfter)
}

// unavailable wraps what could not be looked up or stored. A failure that is our
// own fault keeps its kind, so that it is reported and not retried.
func unavailable(err error) error {
	var refusal *Refusal
	if errors.As(err, &refusal) {
		return refusal // decided already
	}
	known := apperr.From(err)
	if known.Code == apperr.InternalServerError {
		return known
	}
	retry := known.RetryAfter
	if retry == 0 {
		retry = time.Second
	}
	return &Refusal{
		Kind:        Unavailable,
		Description: "The service is temporarily unavailable.",
		RetryAfter:  retry,
		cause:       err,
	}
}
