package secret

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"time"

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
// ten thousand agents would keep two cores busy with bcrypt. Only matches are kept.
type Remembering struct {
	hasher  Hasher
	matches *matches
}

var _ Hasher = (*Remembering)(nil)

// NewRemembering makes a Hasher that asks hasher what it does not know.
func NewRemembering(hasher Hasher) *Remembering {
	return &Remembering{hasher: hasher, matches: newMatches(0)}
}

// Hash computes the hash of a secret, and remembers that they match.
func (r *Remembering) Hash(ctx context.Context, s config.Secret) ([]byte, error) {
	hash, err := r.hasher.Hash(ctx, s)
	if err == nil {
		r.matches.add(hash, s)
	}
	return hash, err
}

// Matches answers from memory, or computes.
func (r *Remembering) Matches(ctx context.Context, hash []byte, s config.Secret) (bool, error) {
	if r.matches.has(hash, s) {
		return true, nil
	}
	ok, err := r.hasher.Matches(ctx, hash, s)
	if err == nil && ok {
		r.matches.add(hash, s)
	}
	return ok, err
}

// matches remembers which secrets were found to be what was sealed. What it keeps is neither, but a digest of both under a
// key that never leaves this process.
type matches struct {
	key   [sha256.Size]byte
	found *otter.Cache[digest, struct{}]
}

type digest [sha256.Size]byte

// newMatches that are remembered for so long, or 0 for as long as there is room.
func newMatches(lifetime time.Duration) *matches {
	options := &otter.Options[digest, struct{}]{MaximumSize: matchCapacity}
	if lifetime > 0 {
		options.ExpiryCalculator = otter.ExpiryWriting[digest, struct{}](lifetime)
	}
	m := &matches{found: otter.Must(options)}
	_, _ = rand.Read(m.key[:]) // never fails: the runtime ends the process instead
	return m
}

func (m *matches) has(sealed []byte, s config.Secret) bool {
	_, known := m.found.GetIfPresent(m.digest(sealed, s))
	return known
}

func (m *matches) add(sealed []byte, s config.Secret) {
	m.found.Set(m.digest(sealed, s), struct{}{})
}

// digest joins what was sealed and the secret without a way to read one pair as another: the former goes in by its own
// digest, which is of a fixed length.
func (m *matches) digest(sealed []byte, s config.Secret) digest {
	mac := hmac.New(sha256.New, m.key[:])
	ofSealed := sha256.Sum256(sealed)
	mac.Write(ofSealed[:])
	mac.Write([]byte(s.Reveal()))
	return digest(mac.Sum(nil))
}
