// Package jwk reads and writes JSON Web Key sets (RFC 7517) of public signing keys: those of the token service itself and
// those that agents register. It knows RSA of 2048 to 8192 bit, P-256 and Ed25519 keys and nothing else, it never holds a
// private key, and it fetches nothing: whoever has the URI of a set asks CheckURI and PublicAddr before it connects.
package jwk

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"slices"
)

// The signature algorithms that a key of a known kind may be used with (RFC 7518 §3.1, RFC 8037 §3.1, RFC 9864 §2.2).
const (
	RS256 = "RS256"
	PS256 = "PS256"
	ES256 = "ES256"
	EdDSA = "EdDSA"
	// Ed25519 is what RFC 9864 calls EdDSA with an Ed25519 key, the only kind that is known here: two names of one algorithm.
	Ed25519 = "Ed25519"
)

// Limits of a key and of a set.
const (
	// MinRSABits is the least modulus that RS256 and PS256 may be used with (RFC 7518 §3.3 and §3.5).
	MinRSABits = 2048
	// MaxRSABits keeps one verification from costing many: its price grows with the square of the modulus.
	MaxRSABits = 8192
	// MaxKeyID is the longest kid of a registered key, in bytes.
	MaxKeyID = 256
	// MaxSetBytes is the largest set of a client that is read.
	MaxSetBytes = 64 << 10
	// MaxSetKeys is how many keys a registered set may have.
	MaxSetKeys = 16
)

// Key is a public signing key. ID is its kid, "" where it has none; Algorithm is the alg that it names as its only one, ""
// where it names none; Public is an *rsa.PublicKey, an *ecdsa.PublicKey on P-256 or an ed25519.PublicKey.
type Key struct {
	ID        string
	Algorithm string
	Public    crypto.PublicKey
}

// Fits reports whether signatures of that algorithm may be verified with the key: the algorithm is one of the key's kind,
// and the key names no other one, under either name of EdDSA. It is false for a key that no set could hold.
func (k Key) Fits(algorithm string) bool {
	if k.Algorithm != "" && Canonical(k.Algorithm) != Canonical(algorithm) {
		return false
	}
	return slices.Contains(algorithmsOf(k.Public), algorithm)
}

// Canonical gives the one name of an algorithm that has two, EdDSA for Ed25519, and any other as it is.
func Canonical(algorithm string) string {
	if algorithm == Ed25519 {
		return EdDSA
	}
	return algorithm
}

// algorithmsOf gives the names of the algorithms of a key's kind, none for a key that is of no known kind or too weak.
func algorithmsOf(public crypto.PublicKey) []string {
	switch public := public.(type) {
	case *rsa.PublicKey:
		if rsaFault(public.N, public.E) == "" {
			return []string{RS256, PS256}
		}
	case *ecdsa.PublicKey:
		if public.Curve == elliptic.P256() {
			return []string{ES256}
		}
	case ed25519.PublicKey:
		if len(public) == ed25519.PublicKeySize {
			return []string{EdDSA, Ed25519}
		}
	}
	return nil
}
