package secret

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"

	"github.com/sentryagent/agentidp/pkg/config"
)

const (
	// Prefix starts every secret, so that secret scanners find a leaked one.
	Prefix = "sk_live_"
	// randomBytes are drawn from the system's CSPRNG for each secret.
	randomBytes = 32
	// Length of a secret in bytes: exactly what bcrypt reads, so that no part
	// of a secret goes unchecked.
	Length = len(Prefix) + 2*randomBytes
)

// Fingerprint is the first 8 bytes of the SHA-256 of a secret. It finds the one
// hash that is worth computing, so that a wrong secret costs an index lookup
// and no bcrypt. Stored beside the hash it is useless alone: a secret is 256
// random bits, and whoever holds the fingerprint still has 2^192 secrets to try.
type Fingerprint [8]byte

// Generate draws a new secret: Prefix and 64 lower-case hex characters.
func Generate() config.Secret {
	var random [randomBytes]byte
	_, _ = rand.Read(random[:]) // never fails: the runtime ends the process instead
	return config.Secret(Prefix + hex.EncodeToString(random[:]))
}

// WellFormed tells whether the text could be a secret of ours at all.
func WellFormed(s config.Secret) bool {
	text := s.Reveal()
	if len(text) != Length || text[:len(Prefix)] != Prefix {
		return false
	}
	for _, c := range []byte(text[len(Prefix):]) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// FingerprintOf a secret.
func FingerprintOf(s config.Secret) Fingerprint {
	sum := sha256.Sum256([]byte(s.Reveal()))
	return Fingerprint(sum[:8])
}
