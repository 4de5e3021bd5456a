package issue

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/services/token/internal/assertion"
)

// Credentials are what a client sent to prove who it is: a secret, or an assertion.
// ClientID is as it came; beside an assertion it may be empty.
type Credentials struct {
	ClientID  string
	Secret    config.Secret
	Assertion config.Secret
}

// Verification is what is known of a secret.
type Verification struct {
	Valid bool
	// Reason is auditevent.ReasonInvalidSecret or ReasonCredentialExpired; "" if Valid.
	Reason string
	// CredentialID and Previous say which secret it was; set if Valid.
	CredentialID uuid.UUID
	Previous     bool
}

// Secrets checks client secrets.
type Secrets interface {
	// Known answers from memory; ok is false when the credentials service has to be
	// asked, which is always so for a secret that is not valid.
	Known(clientID uuid.UUID, secret config.Secret) (v Verification, ok bool)
	// Verify asks the credentials service. A wrong secret is an answer, an error
	// means that nothing is known.
	Verify(ctx context.Context, clientID uuid.UUID, secret config.Secret) (Verification, error)
}

// Failures counts failed client authentications.
type Failures interface {
	// Count counts one more of this client from this address. Past a limit it
	// answers how long to wait, else 0. It never fails: without its store nothing is limited.
	Count(ctx context.Context, clientID, ipAddress string) (retryAfter time.Duration)
}

// Uses is told which credential proved a client's identity, and when.
type Uses interface {
	Used(credentialID uuid.UUID, previous bool, at time.Time)
}

// AuthenticatorConfig is what an Authenticator needs.
type AuthenticatorConfig struct {
	Agents     Agents
	Secrets    Secrets
	Assertions *Assertions
	Failures   Failures
	Uses       Uses
	Journal    Journal
	Events     Events
}

// Authenticator decides whether a client is who it says it is.
type Authenticator struct{ AuthenticatorConfig }

// NewAuthenticator makes an Authenticator.
func NewAuthenticator(cfg AuthenticatorConfig) *Authenticator { return &Authenticator{cfg} }

// Authenticate answers the agent whose secret or assertion this is, in whatever status.
//
// An unknown client and a wrong secret take the same path: the credentials
// service is asked in any case, beside the registry, and both answers are waited
// for. Only a failure is counted and limited, so a right secret is never refused
// because of others' wrong ones.
func (a *Authenticator) Authenticate(ctx context.Context, credentials Credentials, origin auditevent.Origin) (Agent, error) {
	if credentials.Assertion != "" {
		return a.authenticateByAssertion(ctx, credentials, origin)
	}
	id, _ := parseClientID(credentials.ClientID)
	agent, verification, err := a.lookUp(ctx, id, credentials.Secret)
	unknown := errors.Is(err, ErrUnknownAgent)
	if err != nil && !unknown {
		return Agent{}, unavailable(err)
	}
	if !unknown && verification.Valid {
		a.Uses.Used(verification.CredentialID, verification.Previous, a.Events.Clock())
		return agent, nil
	}
	reason := verification.Reason
	if unknown {
		reason = auditevent.ReasonAgentNotFound
	}
	return Agent{}, a.fail(ctx, credentials.ClientID, map[string]any{"reason": reason}, origin)
}

// authenticateByAssertion is Authenticate for a client that signs. No use of a secret is noted.
func (a *Authenticator) authenticateByAssertion(ctx context.Context, credentials Credentials, origin auditevent.Origin) (Agent, error) {
	claimed := assertion.Read(credentials.Assertion.Reveal())
	agent, refusal, err := a.Assertions.prove(ctx, claimed, credentials.ClientID)
	switch {
	case err != nil:
		return Agent{}, unavailable(err)
	case refusal == nil:
		return agent, nil
	case errors.Is(refusal, ErrUnknownAgent):
		return Agent{}, a.fail(ctx, claimed.ClientID, map[string]any{"reason": auditevent.ReasonAgentNotFound}, origin)
	default:
		return Agent{}, a.fail(ctx, claimed.ClientID, map[string]any{
			"reason": auditevent.ReasonInvalidAssertion, "detail": refusal.Error(),
		}, origin)
	}
}

// fail counts and records a failed authentication, and answers what the client is
// told. Nothing in that depends on why it failed.
func (a *Authenticator) fail(ctx context.Context, clientID string, metadata map[string]any, origin auditevent.Origin) error {
	id, wellFormed := parseClientID(clientID)
	if wait := a.Failures.Count(ctx, id.String(), origin.IPAddress); wait > 0 {
		return tooMany("Too many failed authentications.", wait)
	}
	var about *uuid.UUID
	if wellFormed {
		about = &id
	}
	if err := a.record(ctx, about, metadata, origin); err != nil {
		return err
	}
	return errInvalidClient()
}

// lookUp has the agent and the secret looked up side by side, as far as they are not known.
func (a *Authenticator) lookUp(ctx context.Context, id uuid.UUID, secret config.Secret) (Agent, Verification, error) {
	verification, secretKnown := a.Secrets.Known(id, secret)
	agent, agentKnown, agentErr := a.Agents.Known(id)
	if agentKnown && agentErr == nil && agent.Status != StatusActive {
		// It may have been reactivated a moment ago: nobody is refused for what is remembered.
		agentKnown = false
	}
	if secretKnown && agentKnown {
		return agent, verification, agentErr
	}
	// A plain group, without a common context: one answer must not cut the other
	// short, or the time would tell which of them it was.
	var group errgroup.Group
	if !agentKnown {
		group.Go(func() error {
			agent, agentErr = a.Agents.Agent(ctx, id)
			return nil
		})
	}
	var secretErr error
	if !secretKnown {
		verification, secretErr = a.Secrets.Verify(ctx, id, secret)
	}
	_ = group.Wait() // the functions answer through agentErr
	if secretErr != nil {
		return Agent{}, Verification{}, secretErr
	}
	return agent, verification, agentErr
}

// Active refuses a client that proved its identity but may not act.
func (a *Authenticator) Active(ctx context.Context, agent Agent, origin auditevent.Origin) error {
	var reason string
	switch agent.Status {
	case StatusActive:
		return nil
	case StatusSuspended:
		reason = auditevent.ReasonAgentSuspended
	default:
		reason = auditevent.ReasonAgentDecommissioned
	}
	if err := a.recordFailure(ctx, &agent.ID, reason, origin); err != nil {
		return err
	}
	return Refuse(UnauthorizedClient, "This client is "+string(agent.Status)+".")
}

func (a *Authenticator) recordFailure(ctx context.Context, about *uuid.UUID, reason string, origin auditevent.Origin) error {
	return a.record(ctx, about, map[string]any{"reason": reason}, origin)
}

func (a *Authenticator) record(ctx context.Context, about *uuid.UUID, metadata map[string]any, origin auditevent.Origin) error {
	event := a.Events.New(auditevent.AuthFailed, about, origin, metadata)
	if err := a.Journal.Publish(ctx, event)(); err != nil {
		return unavailable(err)
	}
	return nil
}

// parseClientID reads a UUID in canonical lower-case form. Anything else is looked up
// as an id that no agent has: it costs the same and ends the same.
func parseClientID(text string) (id uuid.UUID, wellFormed bool) {
	id, err := uuid.Parse(text)
	if err != nil || id.String() != text || id == uuid.Nil {
		return uuid.UUID{15: 1}, false
	}
	return id, true
}
