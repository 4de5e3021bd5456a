package secret

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/credentialsapi"
)

// Verdict on a secret that a client presented.
type Verdict struct {
	Valid bool
	// Reason is one of credentialsapi.Reason..., empty when valid.
	Reason string
	// CredentialID is the credential the secret belongs to, nil when it belongs
	// to none.
	CredentialID *uuid.UUID
	// Previous: it is the secret before the last rotation, in its grace period.
	Previous bool
	// ValidUntil is when this very secret stops being good, nil when nothing is
	// set to end it.
	ValidUntil *time.Time
}

// Verify tells whether a secret is good for a client, as the database says at
// the end of the check: nothing is cached, so that a revocation holds at once.
// An unknown client and a wrong secret take the same path, an index lookup that
// finds nothing; neither costs a hash, nor a question to Vault. An expired secret costs none either (its
// fingerprint already names it), so that what a caller sees outside differs for
// no refusal. Errors mean that nothing is known about the secret.
func (s *Service) Verify(ctx context.Context, clientID uuid.UUID, presented config.Secret) (Verdict, error) {
	wrong := Verdict{Reason: credentialsapi.ReasonInvalidSecret}
	if !WellFormed(presented) {
		return wrong, nil
	}
	f := FingerprintOf(presented)
	candidates, err := s.store.Candidates(ctx, clientID, f)
	if err != nil {
		return Verdict{}, err
	}
	for _, c := range candidates {
		m := c.find(f, s.now())
		if m.sealed == nil {
			continue
		}
		if m.expired {
			return expiredVerdict(c.ID, m), nil
		}
		ok, err := s.matches(ctx, c.place(), *m.sealed, presented)
		if err != nil {
			return Verdict{}, err
		}
		if ok {
			return s.confirm(ctx, c, f, *m.sealed)
		}
	}
	return wrong, nil
}

// matches tells whether the secret is the one that was sealed.
func (s *Service) matches(ctx context.Context, at Place, sealed Sealed, presented config.Secret) (bool, error) {
	if sealed.Version > 0 {
		return s.kept.matches(ctx, at, sealed.Version, presented)
	}
	return s.hasher.Matches(ctx, sealed.Hash, presented)
}

// confirm reads a credential again whose secret was found right: computing the
// hash, or asking Vault, took long enough for somebody to revoke or rotate it meanwhile.
func (s *Service) confirm(ctx context.Context, checked Record, f Fingerprint, sealed Sealed) (Verdict, error) {
	candidates, err := s.store.Candidates(ctx, checked.AgentID, f)
	if err != nil {
		return Verdict{}, err
	}
	for _, c := range candidates {
		m := c.find(f, s.now())
		if c.ID != checked.ID || m.sealed == nil || !m.sealed.is(sealed) {
			continue
		}
		if m.expired {
			return expiredVerdict(c.ID, m), nil
		}
		return Verdict{Valid: true, CredentialID: &c.ID, Previous: m.previous, ValidUntil: m.validUntil}, nil
	}
	return Verdict{Reason: credentialsapi.ReasonInvalidSecret}, nil
}

func expiredVerdict(id uuid.UUID, m match) Verdict {
	return Verdict{
		Reason: credentialsapi.ReasonCredentialExpired, CredentialID: &id,
		Previous: m.previous, ValidUntil: m.validUntil,
	}
}

// Claim is a secret that somebody presents as an agent's.
type Claim struct {
	AgentID     uuid.UUID
	Fingerprint Fingerprint
}

// Presented is a secret that a client presents.
type Presented struct {
	ClientID uuid.UUID
	Secret   config.Secret
}

// Screen tells which secrets Verify would look at more closely, at the cost of one
// question for all and of no hash. It lets nobody in: it is for who has to look at
// very many wrong ones to find the right one among them.
func (s *Service) Screen(ctx context.Context, presented []Presented) ([]bool, error) {
	claims := make([]Claim, len(presented))
	for i, p := range presented {
		// Who has no secret at all has none of ours.
		claims[i] = Claim{AgentID: p.ClientID, Fingerprint: FingerprintOf(p.Secret)}
	}
	plausible, err := s.store.Screen(ctx, claims, s.now())
	if err != nil {
		return nil, err
	}
	for i, p := range presented {
		plausible[i] = plausible[i] && WellFormed(p.Secret)
	}
	return plausible, nil
}

// RecordUses notes when secrets were used. A time ahead of this service's clock
// counts as now.
func (s *Service) RecordUses(ctx context.Context, uses []Use) error {
	if len(uses) == 0 {
		return nil
	}
	now := s.now()
	clamped := make([]Use, len(uses))
	for i, u := range uses {
		u.UsedAt = u.UsedAt.UTC().Truncate(time.Microsecond)
		if u.UsedAt.After(now) {
			u.UsedAt = now
		}
		clamped[i] = u
	}
	return s.store.RecordUses(ctx, clamped)
}
