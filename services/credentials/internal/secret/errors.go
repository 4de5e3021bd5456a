package secret

import (
	"errors"
	"time"

	"github.com/sentryagent/agentidp/pkg/apperr"
)

// ErrIDTaken is what a Store says to a new credential with the id of another.
var ErrIDTaken = errors.New("there is a credential of that id")

// NotFound is the error for a credential that the agent does not have. One that
// belongs to another agent looks the same.
func NotFound() error {
	return apperr.New(apperr.CredentialNotFound, "Credential with the specified ID was not found for this agent.")
}

func errAgentNotActive(status string) error {
	return apperr.New(apperr.AgentNotActive, "The agent is not active: its credentials can be neither created nor rotated.").
		With(map[string]any{"status": status})
}

func errAlreadyRevoked() error {
	return apperr.New(apperr.CredentialAlreadyRevoked, "The credential is revoked already.")
}

func errExpired(at time.Time) error {
	return apperr.New(apperr.CredentialExpired, "The credential has expired: a new secret of it would not work. Create a new credential.").
		With(map[string]any{"expiresAt": at})
}

func errLimit(limit int) error {
	return apperr.New(apperr.CredentialLimitExceeded, "The agent has as many active credentials as it may have. Revoke one first.").
		With(map[string]any{"limit": limit})
}

func invalidField(field, reason string) error {
	return apperr.Validation(apperr.FieldError{Field: field, Reason: reason})
}
