package issue

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/jwk"
	"github.com/sentryagent/agentidp/services/token/internal/assertion"
)

// ClientKeys are what an agent's assertions are verified with: a set that it registered,
// or the URI of one that it publishes, or neither.
type ClientKeys struct {
	Set []jwk.Key
	URI string
	// Unreadable is set where the registered set cannot be read. That is our fault,
	// and says nothing about a client.
	Unreadable error
}

// PublishedKeys finds the sets that agents publish.
type PublishedKeys interface {
	// Keys answers the client's set at uri: the one that is remembered where it is
	// fresh and suffices, else another one as far as it may be fetched. An error
	// means that it is not known.
	Keys(ctx context.Context, clientID uuid.UUID, uri string, suffices func([]jwk.Key) bool) ([]jwk.Key, error)
}

// AssertionIDs remembers, for all replicas and over restarts, which assertions were used.
type AssertionIDs interface {
	// Use answers whether this is the first use. An error means that it is not known.
	Use(ctx context.Context, clientID uuid.UUID, id string, expiresAt time.Time) (first bool, err error)
}

// AssertionsConfig is what Assertions needs.
type AssertionsConfig struct {
	Agents   Agents
	Verifier *assertion.Verifier
	Keys     PublishedKeys
	IDs      AssertionIDs
	Budget   Budget
}

// Assertions proves who a client is by what it signed (RFC 7523 §2.2).
type Assertions struct{ AssertionsConfig }

// NewAssertions makes Assertions.
func NewAssertions(cfg AssertionsConfig) *Assertions { return &Assertions{cfg} }

var (
	errOtherClient = errors.New("the parameter client_id is not the assertion's sub")
	errUsed        = errors.New("the assertion was used before")
)

// prove answers the client that made the assertion, in whatever status, after it has
// used the assertion up. Nothing is written for a client that may not act, or whose rate
// window is full: it would fill the store with what is refused anyway. A refusal is why it proves nothing: ErrUnknownAgent, or a
// fixed text, for the records only. An err means that it is not known.
//
// It waits for the attempt's turn once memory has not proved it, before anybody is
// asked about it; whose address is past its limit is the turn's to say.
//
// An unknown client, one without keys and a wrong signature take the same path: every
// failure verifies twice, once with what is remembered and once with what the registry
// says, against a decoy where there is no key. So the time tells nothing, and nobody
// is refused for what is remembered.
func (s *Assertions) prove(ctx context.Context, claimed assertion.Assertion, clientID string, own *turn) (agent Agent, refusal, err error) {
	// Looked at first, so that nothing is fetched for what cannot be good.
	wrong := s.Verifier.Check(claimed)
	if wrong == nil && clientID != "" && clientID != claimed.ClientID {
		wrong = errOtherClient
	}
	agent, refusal, err = s.fromMemory(ctx, claimed, wrong)
	if refusal != nil || err != nil {
		if err := own.queue(ctx); err != nil {
			return Agent{}, nil, err
		}
		agent, refusal, err = s.fromRegistry(ctx, claimed, wrong, own)
	}
	if refusal != nil || err != nil {
		return Agent{}, refusal, err
	}
	if agent.Status != StatusActive {
		return agent, nil, nil
	}
	// Looked at and not charged: that is done once per request, and not by who replays what a client sent.
	if window, err := s.Budget.Look(ctx, agent.ID); err != nil {
		return Agent{}, nil, err
	} else if !window.Allowed {
		return Agent{}, nil, rateLimited(window)
	}
	first, err := s.IDs.Use(ctx, agent.ID, claimed.ID, claimed.ExpiresAt)
	if err == nil && !first {
		// What it cost is spent, but who floods is to wait for the answer.
		refusal, err = errUsed, own.queue(ctx)
	}
	return agent, refusal, err
}

// fromMemory verifies with what is remembered, or against nobody's key.
func (s *Assertions) fromMemory(ctx context.Context, claimed assertion.Assertion, wrong error) (agent Agent, refusal, err error) {
	id, _ := parseClientID(claimed.ClientID)
	agent, known, err := s.Agents.Known(id)
	agent = agent.orNobody(known && err == nil && agent.Status == StatusActive)
	refusal, err = s.verify(ctx, claimed, agent, wrong)
	return agent, refusal, err
}

// fromRegistry verifies with what the registry says.
func (s *Assertions) fromRegistry(ctx context.Context, claimed assertion.Assertion, wrong error, own *turn) (agent Agent, refusal, err error) {
	id, _ := parseClientID(claimed.ClientID)
	agent, err = s.Agents.Agent(ctx, id)
	unknown := errors.Is(err, ErrUnknownAgent)
	if err != nil && !unknown {
		return Agent{}, nil, err
	}
	agent = agent.orNobody(!unknown)
	if agent.Keys.URI != "" {
		own.end() // its server may take seconds, and could keep everybody waiting
	}
	refusal, err = s.verify(ctx, claimed, agent, wrong)
	if unknown {
		refusal = ErrUnknownAgent
	}
	return agent, refusal, err
}

// orNobody is an agent without keys where the agent does not count. Nothing can be verified with that.
func (a Agent) orNobody(counts bool) Agent {
	if counts {
		return a
	}
	return Agent{}
}

// verify answers why the assertion is not by the agent. What is wrong about it anyway
// comes first, and still costs a verification, but no fetch.
func (s *Assertions) verify(ctx context.Context, claimed assertion.Assertion, agent Agent, wrong error) (refusal, err error) {
	if wrong != nil {
		_ = s.Verifier.Verify(claimed, nil)
		return wrong, nil
	}
	keys, err := s.keysOf(ctx, agent, claimed)
	if err != nil {
		return nil, err
	}
	return s.Verifier.Verify(claimed, keys), nil
}

func (s *Assertions) keysOf(ctx context.Context, agent Agent, claimed assertion.Assertion) ([]jwk.Key, error) {
	if agent.Keys.URI != "" {
		return s.Keys.Keys(ctx, agent.ID, agent.Keys.URI, claimed.Fits)
	}
	return agent.Keys.Set, agent.Keys.Unreadable
}
