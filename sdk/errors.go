package agentidp

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Code says which error it is.
type Code string

// The codes of an [Error].
const (
	CodeValidation                 Code = "VALIDATION_ERROR"
	CodeRetentionWindowExceeded    Code = "RETENTION_WINDOW_EXCEEDED"
	CodeUnauthorized               Code = "UNAUTHORIZED"
	CodeForbidden                  Code = "FORBIDDEN"
	CodeFreeTierLimitExceeded      Code = "FREE_TIER_LIMIT_EXCEEDED"
	CodeAgentNotFound              Code = "AGENT_NOT_FOUND"
	CodeAgentKeysNotFound          Code = "AGENT_KEYS_NOT_FOUND"
	CodeCredentialNotFound         Code = "CREDENTIAL_NOT_FOUND" //nolint:gosec // a code
	CodeAuditEventNotFound         Code = "AUDIT_EVENT_NOT_FOUND"
	CodeNotFound                   Code = "NOT_FOUND"
	CodeMethodNotAllowed           Code = "METHOD_NOT_ALLOWED"
	CodeAgentAlreadyExists         Code = "AGENT_ALREADY_EXISTS"
	CodeAgentAlreadyDecommissioned Code = "AGENT_ALREADY_DECOMMISSIONED"
	CodeAgentNotActive             Code = "AGENT_NOT_ACTIVE"
	CodeCredentialAlreadyRevoked   Code = "CREDENTIAL_ALREADY_REVOKED" //nolint:gosec // a code
	CodeCredentialExpired          Code = "CREDENTIAL_EXPIRED"         //nolint:gosec // a code
	CodeCredentialLimitExceeded    Code = "CREDENTIAL_LIMIT_EXCEEDED"  //nolint:gosec // a code
	CodeIdempotencyKeyReused       Code = "IDEMPOTENCY_KEY_REUSED"
	CodePreconditionFailed         Code = "PRECONDITION_FAILED"
	CodePayloadTooLarge            Code = "PAYLOAD_TOO_LARGE"
	CodeUnsupportedMediaType       Code = "UNSUPPORTED_MEDIA_TYPE"
	CodeRateLimitExceeded          Code = "RATE_LIMIT_EXCEEDED"
	CodeInternalServerError        Code = "INTERNAL_SERVER_ERROR"
	CodeServiceUnavailable         Code = "SERVICE_UNAVAILABLE"
)

// The codes of an [OAuthError].
const (
	CodeInvalidRequest          Code = "invalid_request"
	CodeInvalidClient           Code = "invalid_client"
	CodeInvalidScope            Code = "invalid_scope"
	CodeInvalidTarget           Code = "invalid_target"
	CodeInvalidToken            Code = "invalid_token"
	CodeInsufficientScope       Code = "insufficient_scope"
	CodeUnauthorizedClient      Code = "unauthorized_client"
	CodeUnsupportedGrantType    Code = "unsupported_grant_type"
	CodeUnsupportedResponseType Code = "unsupported_response_type"
	CodeServerError             Code = "server_error"
	CodeTemporarilyUnavailable  Code = "temporarily_unavailable"
)

// Error is an error of the API.
type Error struct {
	// Status is the HTTP status.
	Status int
	// Code says which error it is. It is empty where something between client and
	// server answered, a proxy for one.
	Code Code
	// Message says what is wrong, for people.
	Message string
	// Details say more, by code; nil if there are none.
	Details map[string]any
	// RequestID finds the request in the logs of the server and its audit trail.
	RequestID string
	// RetryAfter is how long the server asks to wait; 0 if it does not say.
	RetryAfter time.Duration
}

func (e *Error) Error() string {
	text := fmt.Sprintf("agentidp: %d %s: %s", e.Status, e.Code, e.Message)
	if reason, found := e.Details["reason"].(string); found {
		text += " " + reason
	}
	for _, field := range e.Fields() {
		text += fmt.Sprintf("; %s: %s", field.Field, field.Reason)
	}
	return text + requestSuffix(e.RequestID)
}

// FieldError names one field of a request that is wrong.
type FieldError struct {
	Field  string
	Reason string
}

// Fields are the fields that are wrong, where Code is [CodeValidation].
func (e *Error) Fields() []FieldError {
	list, _ := e.Details["errors"].([]any)
	var fields []FieldError
	for _, item := range list {
		if entry, ok := item.(map[string]any); ok {
			field, _ := entry["field"].(string)
			reason, _ := entry["reason"].(string)
			fields = append(fields, FieldError{Field: field, Reason: reason})
		}
	}
	return fields
}

// OAuthError is an error of the token endpoint, of introspection and of revocation,
// in the form of RFC 6749 section 5.2.
type OAuthError struct {
	// Status is the HTTP status.
	Status int
	// Code is the value of error, as in invalid_client.
	Code Code
	// Description says what is wrong, for people.
	Description string
	// RequestID finds the request in the logs of the server and its audit trail.
	RequestID string
	// RetryAfter is how long the server asks to wait; 0 if it does not say.
	RetryAfter time.Duration
}

func (e *OAuthError) Error() string {
	return fmt.Sprintf("agentidp: %d %s: %s", e.Status, e.Code, e.Description) + requestSuffix(e.RequestID)
}

func requestSuffix(id string) string {
	if id == "" {
		return ""
	}
	return " (request " + id + ")"
}

// CodeOf is the code of the [Error] or [OAuthError] in err, "" if there is none.
func CodeOf(err error) Code {
	var api *Error
	if errors.As(err, &api) {
		return api.Code
	}
	var oauth *OAuthError
	if errors.As(err, &oauth) {
		return oauth.Code
	}
	return ""
}

// refusal makes the typed error of an answer that is no success.
func (c *Client) refusal(response *http.Response, body []byte) error {
	var wire struct {
		Code             Code           `json:"code"`
		Message          string         `json:"message"`
		Details          map[string]any `json:"details"`
		Error            Code           `json:"error"`
		ErrorDescription string         `json:"error_description"`
	}
	status, requestID := response.StatusCode, response.Header.Get("X-Request-ID")
	wait := retryAfter(response.Header.Get("Retry-After"), c.clock())
	err := json.Unmarshal(body, &wire)
	switch {
	case err == nil && wire.Error != "":
		return &OAuthError{Status: status, Code: wire.Error, Description: wire.ErrorDescription, RequestID: requestID, RetryAfter: wait}
	case err == nil && wire.Code != "":
		return &Error{Status: status, Code: wire.Code, Message: wire.Message, Details: wire.Details, RequestID: requestID, RetryAfter: wait}
	default:
		return &Error{Status: status, Message: http.StatusText(status), RequestID: requestID, RetryAfter: wait}
	}
}

// statusOf is the HTTP status in err, 0 if it is no answer.
func statusOf(err error) int {
	var api *Error
	if errors.As(err, &api) {
		return api.Status
	}
	var oauth *OAuthError
	if errors.As(err, &oauth) {
		return oauth.Status
	}
	return 0
}

func retryAfterOf(err error) time.Duration {
	var api *Error
	if errors.As(err, &api) {
		return api.RetryAfter
	}
	var oauth *OAuthError
	if errors.As(err, &oauth) {
		return oauth.RetryAfter
	}
	return 0
}
