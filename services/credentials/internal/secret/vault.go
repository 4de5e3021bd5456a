package secret

import (
	"context"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/config"
)

const (
	// matchLifetime is how long a secret that Vault has confirmed is good without asking it again: while Vault is away known
	// secrets go on for that long, and one that somebody deletes there ends that late.
	matchLifetime = 5 * time.Minute
	// takeBackTimeout bounds the deletion of a secret that no row came to name.
	takeBackTimeout = 2 * time.Second
	// deletionLease is how long deletions that one replica took are its own, and so also when one that failed is tried again:
	// soon after Vault is back.
	deletionLease = 10 * time.Second
	deletionBatch = 100
	countTimeout  = 5 * time.Second
)

// Vault keeps secrets outside of the database, in versions. What cannot be asked or done is apperr.ServiceUnavailable.
type Vault interface {
	// Write adds a version, and tells its number, from 1.
	Write(ctx context.Context, at Place, s config.Secret) (version int, err error)
	// Read gives a version, and ErrGone for one that was there and was deleted.
	Read(ctx context.Context, at Place, version int) (config.Secret, error)
	// Destroy deletes a version for good, and Delete all of them. Both are fine with what is not there.
	Destroy(ctx context.Context, at Place, version int) error
	Delete(ctx context.Context, at Place) error
}

// ErrGone is what a Vault says of a version that was deleted.
var ErrGone = errors.New("the secret was deleted from Vault")

// errNoVault: an operator took the setting away while secrets are still there.
var errNoVault = errors.New("the secret is in Vault, and VAULT_ADDR is not set")

// Place is where Vault has the secrets of one credential.
type Place struct {
	AgentID      uuid.UUID
	CredentialID uuid.UUID
}

// Deletion is one that Vault has yet to do.
type Deletion struct {
	ID int64 // given by the store
	Place
	Version int       // 0 for all versions
	DueAt   time.Time // the end that the secret was given, by the clock of who gave it
}

// kept are the secrets in Vault, and what is remembered of them. It is there also without a Vault, for rows of before.
type kept struct {
	vault Vault // nil if none is configured
	known *matches
}

func newKept(v Vault) *kept { return &kept{vault: v, known: newMatches(matchLifetime)} }

func (k *kept) on() bool { return k.vault != nil }

func (k *kept) write(ctx context.Context, at Place, s config.Secret) (int, error) {
	version, err := k.vault.Write(ctx, at, s)
	if err == nil {
		k.known.add(at.sealed(version), s)
	}
	return version, err
}

// matches answers from memory, or asks Vault.
func (k *kept) matches(ctx context.Context, at Place, version int, presented config.Secret) (bool, error) {
	if k.known.has(at.sealed(version), presented) {
		return true, nil
	}
	if !k.on() {
		return false, apperr.Unavailable(errNoVault)
	}
	s, err := k.vault.Read(ctx, at, version)
	if errors.Is(err, ErrGone) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	ok := subtle.ConstantTimeCompare([]byte(s.Reveal()), []byte(presented.Reveal())) == 1
	if ok {
		k.known.add(at.sealed(version), presented)
	}
	return ok, nil
}

// takeBack deletes a secret whose change was not stored. Nobody was given it and no row names it, so it does no harm where
// that fails; the next revocation of the credential takes it along.
func (k *kept) takeBack(ctx context.Context, at Place, sealed Sealed) {
	if sealed.Version == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), takeBackTimeout)
	defer cancel()
	_ = k.vault.Destroy(ctx, at, sealed.Version)
}

// sealed names one version of one credential, for the memory of matches.
func (p Place) sealed(version int) []byte {
	return binary.BigEndian.AppendUint64(p.CredentialID[:], uint64(version)) //nolint:gosec // G115: versions are positive
}

// DeleteUnwanted has Vault delete what ended, revoked credentials and secrets rotated away, as many as are done in one go;
// more tells whether there may be others. What fails is tried again later, and does not keep the rest from being done.
// Without a Vault it does nothing.
func (s *Service) DeleteUnwanted(ctx context.Context) (more bool, err error) {
	if !s.kept.on() {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, deletionLease)
	defer cancel()
	due, err := s.store.DueDeletions(ctx, deletionLease, deletionBatch)
	if err != nil {
		return false, err
	}
	for _, d := range due {
		if failed := s.delete(ctx, d); failed != nil {
			err = failed
		}
		if ctx.Err() != nil {
			break
		}
	}
	return err == nil && len(due) == deletionBatch, err
}

// OverdueDeletions counts what Vault has yet to delete.
func (s *Service) OverdueDeletions(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, countTimeout)
	defer cancel()
	return s.store.CountDeletions(ctx)
}

// delete is done twice where a replica ends between its two steps, which does no harm.
func (s *Service) delete(ctx context.Context, d Deletion) error {
	var err error
	if d.Version > 0 {
		err = s.kept.vault.Destroy(ctx, d.Place, d.Version)
	} else {
		err = s.kept.vault.Delete(ctx, d.Place)
	}
	if err != nil {
		return err
	}
	return s.store.Deleted(ctx, d.ID)
}
