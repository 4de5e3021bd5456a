package secret

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"

	"github.com/maypok86/otter/v2"

	"github.com/sentryagent/agentidp/pkg/config"
)

// matchCapacity bounds how many matches are remembered.
const matchCapacity = 50_000

// Remembering is a Hasher that computes no hash twice: that a secret matches a
// hash is true for ever. It says nothing about whether the hash is still that of a
// credential, which is for the database to say, each time.
//
// Token services ask again about every secret every few minutes; without this,
// ten thousand agents would keep two cores busy with bcrypt.
//
// What it keeps is neither secret nor hash, but a digest of both under a key that
// never leaves this process. Only matches are kept.
type Remembering struct {
	hasher  Hasher
	key     [sha256.Size]byte
	matches *otter.Cache[digest, struct{}]
}

var _ Hasher = (*Remembering)(nil)

type digest [sha256.Size]byte

// NewRemembering makes a Hasher that asks hasher what it does not know. It fails
// only if the system has no random bytes.
func NewRemembering(hasher Hasher) (*Remembering, error) {
	r := &Remembering{
		hasher:  hasher,
		matches: otter.Must(&otter.Options[digest, struct{}]{MaximumSize: matchCapacity}),
	}
	if _, err := rand.Read(r.key[:]); err != nil {
		return nil, fmt.Errorf("make the key of the match cache: %w", err)
	}
	return r, nil
}

// Hash computes the hash of a secret, and remembers that they match.
func (r *Remembering) Hash(ctx context.Context, s config.Secret) ([]byte, error) {
	hash, err := r.hasher.Hash(ctx, s)
	if err == nil {
		r.matches.Set(r.digest(hash, s), struct{}{})
	}
	return hash, err
}

// Matches answers from memory, or computes.
func (r *Remembering) Matches(ctx context.Context, hash []byte, s config.Secret) (bool, error) {
	sum := r.digest(hash, s)
	if _, known := r.matches.GetIfPresent(sum); known {
		return true, nil
	}
	ok, err := r.hasher.Matches(ctx, hash, s)
	if err == nil && ok {
		r.matches.Set(sum, struct{}{})
	}
	return ok, err
}

// digest joins hash and secret without a way to read one pair as another: the
// hash goes in by its own digest, which is of a fixed length.
func (r *Remembering) digest(hash []byte, s config.Secret) digest {
	mac := hmac.New(sha256.New, r.key[:])
	ofHash := sha256.Sum256(hash)
	mac.Write(ofHash[:])
	mac.Write([]byte(s.Reveal()))
	return digest(mac.Sum(nil))
}
