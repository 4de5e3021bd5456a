// Package apperr is the one typed error that travels from the deepest layer of
// a service to its client, and across services: a client of an internal API
// rebuilds it from the response body, so that CodeOf works on both sides.
//
// Message and Details are public and go to the client as they are; the cause
// is for the log and never leaves the process. The package decides nothing
// about HTTP beyond the status that belongs to a code, and it never logs.
package apperr

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"time"
)

// Error is a failure that a client may see.
//
// An Error is immutable once it is returned: the With methods answer copies,
// so that package-level values can be refined without being changed.
type Error struct {
	// Code is the machine-readable kind of failure.
	Code Code
	// Message is one sentence for a person. It is public.
	Message string
	// Details is the public, JSON-encodable "details" object; nil for none.
	Details map[string]any
	// RetryAfter is how long the client should wait; 0 for no advice. It is
	// sent as Retry-After in whole seconds, rounded up.
	RetryAfter time.Duration
	// Challenge is the WWW-Authenticate value (RFC 9110 §11.6.1); "" for none.
	Challenge string

	cause error
}

// New returns an Error with a public message.
func New(code Code, message string) *Error {
	return &Error{Code: code, Message: message}
}

// Internal is a failure that the client can do nothing about and learns
// nothing of: INTERNAL_SERVER_ERROR with a fixed message.
func Internal(cause error) *Error {
	return &Error{Code: InternalServerError, Message: "An internal error occurred.", cause: cause}
}

// Unavailable is a failure of something this service depends on:
// SERVICE_UNAVAILABLE with a fixed message, to be retried after a second.
func Unavailable(cause error) *Error {
	return &Error{
		Code:       ServiceUnavailable,
		Message:    "The service is temporarily unavailable.",
		RetryAfter: time.Second,
		cause:      cause,
	}
}

// From makes an *Error of any error: nil stays nil, an *Error in the chain is
// returned as it is, a context that ended is Unavailable (what could not be
// looked up in time is not known), everything else is Internal.
func From(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return Unavailable(err)
	}
	return Internal(err)
}

// CodeOf is the code of the *Error in err, "" if there is none. To compare codes
// is how errors are told apart: copies that were refined have the same, and so have
// those that were rebuilt from a peer's response, and errors.Is knows neither.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// With returns a copy that also has these details; a key that is there
// already is replaced.
func (e *Error) With(details map[string]any) *Error {
	c := *e
	c.Details = make(map[string]any, len(e.Details)+len(details))
	maps.Copy(c.Details, e.Details)
	maps.Copy(c.Details, details)
	return &c
}

// WithChallenge returns a copy with this WWW-Authenticate value.
func (e *Error) WithChallenge(challenge string) *Error {
	c := *e
	c.Challenge = challenge
	return &c
}

// WithRetryAfter returns a copy that advises the client to wait for d.
func (e *Error) WithRetryAfter(d time.Duration) *Error {
	c := *e
	c.RetryAfter = d
	return &c
}

// Because returns a copy with the cause that the log shows and errors.Is and
// errors.As find; the client never sees it.
func (e *Error) Because(cause error) *Error {
	c := *e
	c.cause = cause
	return &c
}

// Error is the text for the log: it may contain the cause, so it must not be
// sent to a client.
func (e *Error) Error() string {
	text := string(e.Code) + ": " + e.Message
	if e.cause != nil {
		text += ": " + e.cause.Error()
	}
	return text
}

// LogValue is Error: slog would write what a client gets, which has no cause, as
// it marshals what can be marshaled.
func (e *Error) LogValue() slog.Value { return slog.StringValue(e.Error()) }

// Unwrap returns the cause, nil if there is none.
func (e *Error) Unwrap() error { return e.cause }
