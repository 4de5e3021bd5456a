package issue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/authn"
	"github.com/sentryagent/agentidp/pkg/revocation"
)

// Revocation is a token that is refused until it would have expired.
type Revocation struct {
	TokenID   uuid.UUID
	AgentID   uuid.UUID
	ExpiresAt time.Time
}

// RevocationStore is the truth about revocations.
type RevocationStore interface {
	// Revoke stores the revocation and its event in one transaction. Both are left
	// as they are if the token was revoked before.
	Revoke(ctx context.Context, revocation Revocation, event auditevent.Event) error
	// Kept reads whether the token is revoked, and the newest cutoff of its agent that has come; the zero one if none has.
	Kept(ctx context.Context, tokenID uuid.UUID, agentID uuid.UUID) (revoked bool, cutoff revocation.Cutoff, err error)
}

// Announcer brings a stored revocation to where every service looks for it. It
// tries at once and goes on in the background; it never fails.
type Announcer interface {
	Announce(ctx context.Context, revoked revocation.Revoked)
}

// RevokerConfig is what a Revoker needs. Its Verifier takes a token for as long as a revocation of it counts, which is
// revocation.Margin longer than anybody else.
type RevokerConfig struct {
	Verifier  Verifier
	Store     RevocationStore
	Announcer Announcer
	Events    Events
}

// Revoker revokes tokens (RFC 7009).
type Revoker struct{ RevokerConfig }

// NewRevoker makes a Revoker.
func NewRevoker(cfg RevokerConfig) *Revoker { return &Revoker{cfg} }

// Holder answers whose token it is; revocable is false for what expired long ago or was never
// a token of ours, of which nothing has to be revoked.
func (r *Revoker) Holder(ctx context.Context, token string) (holder authn.Principal, revocable bool, err error) {
	return verified(ctx, r.Verifier, token)
}

// Revoke makes the token refused everywhere. When it returns nil the revocation
// is durable. A token that was revoked before is no error and no second event.
func (r *Revoker) Revoke(ctx context.Context, holder authn.Principal, origin auditevent.Origin) error {
	id, err := uuid.Parse(holder.TokenID)
	if err != nil {
		return apperr.Internal(fmt.Errorf("jti of a verified token: %w", err))
	}
	event := r.Events.New(auditevent.TokenRevoked, &holder.AgentID, origin, map[string]any{"jti": holder.TokenID})
	stored := Revocation{TokenID: id, AgentID: holder.AgentID, ExpiresAt: holder.ExpiresAt}
	if err := r.Store.Revoke(ctx, stored, event); err != nil {
		return unavailable(err)
	}
	r.Announcer.Announce(ctx, revocation.Revoked{TokenID: holder.TokenID, ExpiresAt: holder.ExpiresAt})
	return nil
}

// TruthConfig is what a Truth needs.
type TruthConfig struct {
	Store  RevocationStore
	Agents Agents
}

// Truth answers about revocations when the cache that all services share cannot.
type Truth struct{ TruthConfig }

// NewTruth makes a Truth.
func NewTruth(cfg TruthConfig) *Truth { return &Truth{cfg} }

// Revoked reads the store and, of a token that is not revoked, asks the registry
// about the agent, not memory, nor who has asked already. The store alone would not do:
// it hears of a suspension and of its end through the registry's outbox, the stream and
// a consumer, and nobody here can tell whether all of them have caught up. So what is
// answered holds of the moment it was asked, or a later one, whatever NATS does, and
// without the registry there is no answer: no token is accepted because what would
// refuse it is away. An answer that is older than the store's cutoff does not count. It
// is a revocation.Fallback.
func (t *Truth) Revoked(ctx context.Context, query revocation.Query) (bool, error) {
	id, err := uuid.Parse(query.TokenID)
	if err != nil {
		return false, apperr.Validation(apperr.FieldError{Field: "jti", Reason: "must be a UUID"})
	}
	revoked, kept, err := t.Store.Kept(ctx, id, query.AgentID)
	if err != nil || revoked {
		return revoked, err
	}
	agent, err := t.Agents.AgentNow(ctx, query.AgentID)
	if errors.Is(err, ErrUnknownAgent) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("ask the registry about an agent: %w", err)
	}
	cutoff := revocation.Cutoff{
		AgentID: agent.ID, Revision: agent.Revision, Blocked: agent.Status != StatusActive, ValidAfter: agent.TokensValidAfter,
	}
	if kept.Revision > cutoff.Revision {
		cutoff = kept
	}
	return cutoff.Refuses(query.IssuedAt), nil
}
