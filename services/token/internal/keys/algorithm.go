package keys

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"fmt"
)

// Algorithm is a JWS algorithm this service can sign with (RFC 7518 §3.1, RFC 8037 §3.1).
type Algorithm string

// The algorithms there are. RS256 uses RSA of 2048 bits, ES256 P-256, EdDSA Ed25519.
const (
	RS256 Algorithm = "RS256"
	ES256 Algorithm = "ES256"
	EdDSA Algorithm = "EdDSA"
)

// rsaBits is the size of RSA keys that are made here, and the least of those that are imported.
const rsaBits = 2048

// ParseAlgorithm reads the setting SIGNING_ALG.
func ParseAlgorithm(name string) (Algorithm, error) {
	switch alg := Algorithm(name); alg {
	case RS256, ES256, EdDSA:
		return alg, nil
	default:
		return "", fmt.Errorf("must be RS256, ES256 or EdDSA, not %q", name)
	}
}

func (a Algorithm) generate() (crypto.Signer, error) {
	switch a {
	case RS256:
		return rsa.GenerateKey(rand.Reader, rsaBits)
	case ES256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case EdDSA:
		_, private, err := ed25519.GenerateKey(rand.Reader)
		return private, err
	default:
		return nil, fmt.Errorf("no key can be made for algorithm %q", string(a))
	}
}

// fits says whether a key is of the kind the algorithm signs with.
func (a Algorithm) fits(key crypto.Signer) bool {
	switch key := key.(type) {
	case *rsa.PrivateKey:
		return a == RS256
	case *ecdsa.PrivateKey:
		return a == ES256 && key.Curve == elliptic.P256()
	case ed25519.PrivateKey:
		return a == EdDSA
	default:
		return false
	}
}

func encode(octets []byte) string { return base64.RawURLEncoding.EncodeToString(octets) }
