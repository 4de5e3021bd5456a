package secret

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/crypto/bcrypt"
	"golang.org/x/sync/semaphore"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/config"
)

// bcryptCost is the work factor of every stored hash: 2^10 rounds.
const bcryptCost = 10

// Hasher computes and compares the hashes secrets are stored as. Both take tens
// of milliseconds of a whole core, and must never run inside a transaction.
type Hasher interface {
	Hash(ctx context.Context, s config.Secret) ([]byte, error)
	Matches(ctx context.Context, hash []byte, s config.Secret) (bool, error)
}

// Bcrypt is the Hasher of production. It computes on at most GOMAXPROCS cores
// at a time: more would only make every computation slower, and starve the
// requests that need none.
type Bcrypt struct {
	cores *semaphore.Weighted
}

var _ Hasher = (*Bcrypt)(nil)

// NewBcrypt makes a Hasher with a place per usable core.
func NewBcrypt() *Bcrypt {
	return &Bcrypt{cores: semaphore.NewWeighted(int64(runtime.GOMAXPROCS(0)))}
}

// Hash computes the hash of a secret, when a core is free. When the caller's
// context ends first, the error is apperr.ServiceUnavailable.
func (b *Bcrypt) Hash(ctx context.Context, s config.Secret) ([]byte, error) {
	if err := b.acquire(ctx); err != nil {
		return nil, err
	}
	defer b.cores.Release(1)
	hash, err := bcrypt.GenerateFromPassword([]byte(s.Reveal()), bcryptCost)
	if err != nil {
		return nil, fmt.Errorf("hash secret: %w", err)
	}
	return hash, nil
}

// Matches compares in constant time, when a core is free. Errors as Hash.
func (b *Bcrypt) Matches(ctx context.Context, hash []byte, s config.Secret) (bool, error) {
	if err := b.acquire(ctx); err != nil {
		return false, err
	}
	defer b.cores.Release(1)
	err := bcrypt.CompareHashAndPassword(hash, []byte(s.Reveal()))
	if errors.Is(err, bcrypt.ErrMismatchedHashAndPassword) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("compare secret: %w", err)
	}
	return true, nil
}

func (b *Bcrypt) acquire(ctx context.Context) error {
	if err := b.cores.Acquire(ctx, 1); err != nil {
		return apperr.Unavailable(fmt.Errorf("wait for a free core: %w", err))
	}
	return nil
}
