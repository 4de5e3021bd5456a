package issue

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/idle"
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
	// Familiar tells whether the secret was good when it was last asked about, not
	// too long ago. That proves nothing; it only is no sign of guessing.
	Familiar(clientID uuid.UUID, secret config.Secret) bool
	// Screen asks the credentials service, together with all others who ask, whether
	// the client may have such a secret: only then Verify is worth its cost.
	Screen(ctx context.Context, clientID uuid.UUID, secret config.Secret) (plausible bool, err error)
	// Verify asks the credentials service. A wrong secret is an answer, an error
	// means that nothing is known.
	Verify(ctx context.Context, clientID uuid.UUID, secret config.Secret) (Verification, error)
}

// Failures counts failed client authentications.
type Failures interface {
	// Count counts one more of this client from this address. Past a limit it
	// answers how long to wait, else 0. It never fails: without its store nothing is limited.
	Count(ctx context.Context, clientID, ipAddress string) (retryAfter time.Duration)
	// Enter is called before anybody is asked about a secret that is not familiar, or
	// about an assertion that what is remembered does not prove. It waits while many
	// others are looked into, and longer in a crowd. The error is that of ctx.
	Enter(ctx context.Context, ipAddress string) (Entry, error)
	// Queue waits for the turn of an attempt in a crowd that it costs much to look
	// into. An error means that it cannot be.
	Queue(ctx context.Context, ipAddress string) error
	// Refused is called for a failure in a crowd, which is not counted. It returns when
	// it is time to tell the client, or ctx ends.
	Refused(ctx context.Context)
}

// Entry is how an attempt is to be looked into.
type Entry struct {
	// Crowd tells that attempts fail in such numbers that this one has to be
	// cheap: what fails is not recorded.
	Crowd bool
	// Limited is how long the address is past its limit, 0 if it is not.
	Limited time.Duration
	// Leave is to be called once the attempt is decided and counted.
	Leave func()
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
	// Floor is how long a failed authentication takes at least. What is looked up is
	// alike for every failure; this hides the rest, and costs no CPU.
	Floor time.Duration
}

// Authenticator decides whether a client is who it says it is.
type Authenticator struct{ AuthenticatorConfig }

// NewAuthenticator makes an Authenticator.
func NewAuthenticator(cfg AuthenticatorConfig) *Authenticator { return &Authenticator{cfg} }

// Authenticate answers the agent whose secret or assertion this is, in whatever status.
//
// An unknown client and a wrong secret take the same path and the same time: both
// the credentials service and the registry are asked in any case, side by side, and
// both answers are waited for. Only a failure is counted and limited, so a right
// secret is never refused because of others' wrong ones.
func (a *Authenticator) Authenticate(ctx context.Context, credentials Credentials, origin auditevent.Origin) (Agent, error) {
	began := time.Now()
	agent, err := a.authenticate(ctx, credentials, origin)
	if failed(err) {
		_ = idle.For(ctx, a.Floor-time.Since(began))
	}
	return agent, err
}

// Anew answers what the registry says now of an agent that has authenticated, and agent with an error. An agent that there is
// not any more has failed to authenticate.
func (a *Authenticator) Anew(ctx context.Context, agent Agent, origin auditevent.Origin) (Agent, error) {
	current, err := a.Agents.Agent(ctx, agent.ID)
	switch {
	case errors.Is(err, ErrUnknownAgent):
		metadata := map[string]any{"reason": auditevent.ReasonAgentNotFound}
		return agent, a.fail(ctx, agent.ID.String(), metadata, origin)
	case err != nil:
		return agent, unavailable(err)
	}
	return current, nil
}

// failed tells whether a client did not prove who it is.
func failed(err error) bool {
	var refusal *Refusal
	return errors.As(err, &refusal) && (refusal.Kind == InvalidClient || refusal.Kind == TooManyRequests)
}

func (a *Authenticator) authenticate(ctx context.Context, credentials Credentials, origin auditevent.Origin) (Agent, error) {
	own := &turn{failures: a.Failures, ipAddress: origin.IPAddress}
	defer own.end()
	if credentials.Assertion != "" {
		return a.authenticateByAssertion(ctx, credentials, origin, own)
	}
	id, _ := parseClientID(credentials.ClientID)
	agent, verification, err := a.lookUp(ctx, id, credentials.Secret, own)
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
func (a *Authenticator) authenticateByAssertion(ctx context.Context, credentials Credentials, origin auditevent.Origin, own *turn) (Agent, error) {
	claimed := assertion.Read(credentials.Assertion.Reveal())
	agent, refusal, err := a.Assertions.prove(ctx, claimed, credentials.ClientID, own)
	switch {
	case own.entry.Limited > 0 && (own.full || err == nil && refusal != nil):
		a.Failures.Refused(ctx)
		return Agent{}, errTooManyFailures(own.retryAfter())
	case err != nil:
		return Agent{}, unavailable(err)
	case refusal == nil:
		return agent, nil
	}
	metadata := map[string]any{"reason": auditevent.ReasonInvalidAssertion, "detail": refusal.Error()}
	if errors.Is(refusal, ErrUnknownAgent) {
		metadata = map[string]any{"reason": auditevent.ReasonAgentNotFound}
	}
	return Agent{}, a.fail(ctx, claimed.ClientID, metadata, origin)
}

// fail counts and records a failed authentication, and answers what the client is
// told. Nothing in that depends on why it failed.
func (a *Authenticator) fail(ctx context.Context, clientID string, metadata map[string]any, origin auditevent.Origin) error {
	id, wellFormed := parseClientID(clientID)
	if wait := a.Failures.Count(ctx, id.String(), origin.IPAddress); wait > 0 {
		return errTooManyFailures(wait)
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

// lookUp has the agent and the secret looked up, as far as they are not known.
func (a *Authenticator) lookUp(ctx context.Context, id uuid.UUID, secret config.Secret, own *turn) (Agent, Verification, error) {
	verification, secretKnown := a.Secrets.Known(id, secret)
	agent, agentKnown, agentErr := a.Agents.Known(id)
	if agentKnown && agentErr == nil && agent.Status != StatusActive {
		// It may have been reactivated a moment ago: nobody is refused for what is remembered.
		agentKnown = false
	}
	switch {
	case secretKnown && agentKnown:
		return agent, verification, agentErr
	case secretKnown:
		agent, agentErr = a.Agents.Agent(ctx, id)
		return agent, verification, agentErr
	case a.Secrets.Familiar(id, secret):
		return a.askBoth(ctx, id, secret)
	}
	if err := own.enter(ctx); err != nil {
		return Agent{}, Verification{}, err
	}
	if own.entry.Crowd {
		if err := a.screen(ctx, id, secret, own); err != nil {
			return Agent{}, Verification{}, err
		}
	}
	return a.askBoth(ctx, id, secret)
}

// askBoth asks about the secret and the agent side by side, and about the agent also
// if it is known: an id that is in use must not be answered faster than others.
func (a *Authenticator) askBoth(ctx context.Context, id uuid.UUID, secret config.Secret) (Agent, Verification, error) {
	remembered, known, knownErr := a.Agents.Known(id)
	// A plain group, without a common context: one answer must not cut the other
	// short, or the time would tell which of them it was.
	var group errgroup.Group
	var agent Agent
	var agentErr error
	group.Go(func() error {
		agent, agentErr = a.Agents.Agent(ctx, id)
		return nil
	})
	verification, err := a.Secrets.Verify(ctx, id, secret)
	_ = group.Wait() // the function answers through agentErr
	if err != nil {
		return Agent{}, Verification{}, err
	}
	if agentErr != nil && !errors.Is(agentErr, ErrUnknownAgent) && known && knownErr == nil && remembered.Status == StatusActive {
		return remembered, verification, nil
	}
	return agent, verification, agentErr
}

// screen refuses a secret of the crowd that cannot be good. That is neither counted
// nor recorded, and nobody needs to know whether there is such a client.
func (a *Authenticator) screen(ctx context.Context, id uuid.UUID, secret config.Secret, own *turn) error {
	plausible, err := a.Secrets.Screen(ctx, id, secret)
	if err != nil || plausible {
		return err
	}
	a.Failures.Refused(ctx)
	return errTooManyFailures(own.retryAfter())
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
