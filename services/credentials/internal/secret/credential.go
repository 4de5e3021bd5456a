// Package secret is the domain of the credentials service: what a credential
// is, who may have how many, when its secret is good, and what happens to it.
// Secrets are made and checked here and nowhere else; a secret leaves the
// package once, inside an Issued. The package must not know HTTP or SQL, and
// must not compute a hash while the store holds a transaction open.
package secret

import (
	"bytes"
	"time"

	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/config"
)

// Status of a credential. A credential whose expiry has passed keeps the status
// it has; its secret is good no more, and it does not count towards the limit.
type Status string

// The statuses. Revoked is final.
const (
	Active  Status = "active"
	Revoked Status = "revoked"
)

// MaxGrace is the longest time the secret before a rotation may go on working.
const MaxGrace = 24 * time.Hour

// Credential is what may be shown of a credential: neither secret nor hash.
// Times are UTC with microseconds; a nil time has not happened, or never will.
type Credential struct {
	ID      uuid.UUID
	AgentID uuid.UUID
	Status  Status

	CreatedAt time.Time
	ExpiresAt *time.Time
	RotatedAt *time.Time
	RevokedAt *time.Time
	// LastUsedAt is the last successful use, of either secret, as reported by
	// the token service: up to a minute late.
	LastUsedAt *time.Time

	// PreviousValidUntil is when the secret before the last rotation stops (or
	// stopped) working; nil when it stopped at once.
	PreviousValidUntil *time.Time
	// PreviousLastUsedAt is the last use of that secret since the rotation.
	PreviousLastUsedAt *time.Time
}

// Expired tells whether the credential's expiry has passed.
func (c Credential) Expired(now time.Time) bool {
	return c.ExpiresAt != nil && !now.Before(*c.ExpiresAt)
}

// Sealed is what is kept of a secret to check it by: its hash, or the version of it that Vault has.
type Sealed struct {
	Hash        []byte // nil where Vault has the secret
	Version     int    // 0 where it does not
	Fingerprint Fingerprint
}

// is tells whether two seals are of one and the same secret of a credential.
func (s Sealed) is(other Sealed) bool {
	return s.Version == other.Version && bytes.Equal(s.Hash, other.Hash)
}

// Record is a credential with its secrets at rest, as the store keeps it.
type Record struct {
	Credential
	Current  *Sealed // nil once revoked
	Previous *Sealed // at most one, only after a rotation with a grace period

	// Unwanted is what a change leaves in Vault that has no use any more. It is stored with
	// the change, and deleted after it.
	Unwanted []Deletion
}

// Issued is a credential with its secret, at the one time it is shown.
type Issued struct {
	Credential
	Secret config.Secret
}

// rotate gives the record a new secret. The one before keeps working for the
// grace period, at most until the credential expires; an older one still in its
// own grace period stops now.
func (r *Record) rotate(now time.Time, next Sealed, grace time.Duration) error {
	if err := r.rotatable(now); err != nil {
		return err
	}
	r.unwanted(r.Previous, now)
	r.Previous, r.PreviousValidUntil, r.PreviousLastUsedAt = nil, nil, nil
	ends := now
	if grace > 0 {
		until := now.Add(grace)
		if r.ExpiresAt != nil && r.ExpiresAt.Before(until) {
			until = *r.ExpiresAt
		}
		r.Previous, r.PreviousValidUntil = r.Current, &until
		ends = until
	}
	r.unwanted(r.Current, ends)
	r.Current, r.RotatedAt = &next, &now
	return nil
}

// unwanted notes that Vault may delete a secret once it has ended.
func (r *Record) unwanted(ended *Sealed, at time.Time) {
	if ended != nil && ended.Version > 0 {
		r.Unwanted = append(r.Unwanted, Deletion{Place: r.place(), Version: ended.Version, DueAt: at})
	}
}

func (c Credential) place() Place { return Place{AgentID: c.AgentID, CredentialID: c.ID} }

// rotatable refuses what a rotation could give no working secret.
func (c Credential) rotatable(now time.Time) error {
	if c.Status == Revoked {
		return errAlreadyRevoked()
	}
	if c.Expired(now) {
		return errExpired(*c.ExpiresAt)
	}
	return nil
}

// revoke ends the record for good and forgets its secrets. Whatever Vault has of it is for the caller to have deleted.
func (r *Record) revoke(now time.Time) error {
	if r.Status == Revoked {
		return errAlreadyRevoked()
	}
	r.Status, r.RevokedAt = Revoked, &now
	r.Current, r.Previous = nil, nil
	if r.PreviousValidUntil != nil && now.Before(*r.PreviousValidUntil) {
		r.PreviousValidUntil = &now
	}
	return nil
}

// match is what a fingerprint can mean within one record, at one time.
type match struct {
	sealed     *Sealed // nil when it can mean no secret of the record
	expired    bool    // the secret was good until its credential expired
	previous   bool
	validUntil *time.Time
}

// find the secret of the record that a fingerprint can mean. A previous secret
// whose grace period is over belongs to the record no more.
func (r Record) find(f Fingerprint, now time.Time) match {
	expired := r.Expired(now)
	switch {
	case r.Current != nil && r.Current.Fingerprint == f:
		return match{sealed: r.Current, expired: expired, validUntil: r.ExpiresAt}
	case r.Previous != nil && r.Previous.Fingerprint == f:
		cut := r.ExpiresAt != nil && r.PreviousValidUntil.Equal(*r.ExpiresAt)
		if !now.Before(*r.PreviousValidUntil) && (!expired || !cut) {
			return match{}
		}
		return match{sealed: r.Previous, expired: expired, previous: true, validUntil: r.PreviousValidUntil}
	default:
		return match{}
	}
}
