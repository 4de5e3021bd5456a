package apperr

import "net/http"

// Code is the machine-readable kind of a failure, stable across releases.
type Code string

// The codes of the public API, and of the internal ones.
const (
	ValidationError            Code = "VALIDATION_ERROR"
	RetentionWindowExceeded    Code = "RETENTION_WINDOW_EXCEEDED"
	Unauthorized               Code = "UNAUTHORIZED"
	Forbidden                  Code = "FORBIDDEN"
	FreeTierLimitExceeded      Code = "FREE_TIER_LIMIT_EXCEEDED"
	AgentNotFound              Code = "AGENT_NOT_FOUND"
	CredentialNotFound         Code = "CREDENTIAL_NOT_FOUND" //nolint:gosec // G101: the name of an error
	AgentKeysNotFound          Code = "AGENT_KEYS_NOT_FOUND"
	AuditEventNotFound         Code = "AUDIT_EVENT_NOT_FOUND"
	NotFound                   Code = "NOT_FOUND"
	MethodNotAllowed           Code = "METHOD_NOT_ALLOWED"
	AgentAlreadyExists         Code = "AGENT_ALREADY_EXISTS"
	AgentAlreadyDecommissioned Code = "AGENT_ALREADY_DECOMMISSIONED"
	AgentNotActive             Code = "AGENT_NOT_ACTIVE"
	CredentialAlreadyRevoked   Code = "CREDENTIAL_ALREADY_REVOKED" //nolint:gosec // G101: the name of an error
	CredentialExpired          Code = "CREDENTIAL_EXPIRED"         //nolint:gosec // G101: the name of an error
	CredentialLimitExceeded    Code = "CREDENTIAL_LIMIT_EXCEEDED"  //nolint:gosec // G101: the name of an error
	IdempotencyKeyReused       Code = "IDEMPOTENCY_KEY_REUSED"
	PreconditionFailed         Code = "PRECONDITION_FAILED"
	PayloadTooLarge            Code = "PAYLOAD_TOO_LARGE"
	UnsupportedMediaType       Code = "UNSUPPORTED_MEDIA_TYPE"
	RateLimitExceeded          Code = "RATE_LIMIT_EXCEEDED"
	InternalServerError        Code = "INTERNAL_SERVER_ERROR"
	ServiceUnavailable         Code = "SERVICE_UNAVAILABLE"
)

// Status is the HTTP status of a code; 500 for a code that does not exist.
func (c Code) Status() int {
	if status := c.status(); status != 0 {
		return status
	}
	return http.StatusInternalServerError
}

// status is 0 for a code that does not exist.
func (c Code) status() int {
	switch c {
	case ValidationError, RetentionWindowExceeded:
		return http.StatusBadRequest
	case Unauthorized:
		return http.StatusUnauthorized
	case Forbidden, FreeTierLimitExceeded:
		return http.StatusForbidden
	case AgentNotFound, AgentKeysNotFound, CredentialNotFound, AuditEventNotFound, NotFound:
		return http.StatusNotFound
	case MethodNotAllowed:
		return http.StatusMethodNotAllowed
	case AgentAlreadyExists, AgentAlreadyDecommissioned, AgentNotActive,
		CredentialAlreadyRevoked, CredentialExpired, CredentialLimitExceeded, IdempotencyKeyReused:
		return http.StatusConflict
	case PreconditionFailed:
		return http.StatusPreconditionFailed
	case PayloadTooLarge:
		return http.StatusRequestEntityTooLarge
	case UnsupportedMediaType:
		return http.StatusUnsupportedMediaType
	case RateLimitExceeded:
		return http.StatusTooManyRequests
	case InternalServerError:
		return http.StatusInternalServerError
	case ServiceUnavailable:
		return http.StatusServiceUnavailable
	default:
		return 0
	}
}
