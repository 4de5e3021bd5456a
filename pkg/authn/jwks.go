package authn

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
)

// minRSABits is the least modulus that RS256 may be used with (RFC 7518 §3.3).
const minRSABits = 2048

// jwk is a JSON Web Key (RFC 7517 §4) with the parameters of RSA, EC (RFC 7518 §6) and OKP (RFC 8037 §2) public keys.
type jwk struct {
	KeyType   string `json:"kty"`
	Use       string `json:"use,omitempty"`
	ID        string `json:"kid,omitempty"`
	Algorithm string `json:"alg,omitempty"`
	N         string `json:"n,omitempty"`
	E         string `json:"e,omitempty"`
	Curve     string `json:"crv,omitempty"`
	X         string `json:"x,omitempty"`
	Y         string `json:"y,omitempty"`
}

type jwks struct {
	Keys []jwk `json:"keys"`
}

var errUnusableKey = errors.New("not a public signing key of a known kind")

// ParseJWKS reads the public signing keys of a JWK set (RFC 7517). Keys for another use, of another kind or too weak are
// left out, as RFC 7517 §5 asks; so are keys without an id. A set that has none left, or two of one id, is an error.
func ParseJWKS(data []byte) ([]Key, error) {
	var set jwks
	if err := json.Unmarshal(data, &set); err != nil {
		return nil, fmt.Errorf("parse JWK set: %w", err)
	}
	keys := make([]Key, 0, len(set.Keys))
	seen := make(map[string]bool, len(set.Keys))
	for _, k := range set.Keys {
		key, err := k.key()
		if err != nil {
			continue
		}
		if seen[key.ID] {
			return nil, fmt.Errorf("parse JWK set: more than one key %q", key.ID)
		}
		seen[key.ID] = true
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, errors.New("parse JWK set: no usable signing key in it")
	}
	return keys, nil
}

func (k jwk) key() (Key, error) {
	if k.ID == "" || (k.Use != "" && k.Use != "sig") {
		return Key{}, errUnusableKey
	}
	var (
		public    crypto.PublicKey
		algorithm string
		err       error
	)
	switch {
	case k.KeyType == "RSA":
		algorithm = RS256
		public, err = k.rsa()
	case k.KeyType == "EC" && k.Curve == "P-256":
		algorithm = ES256
		public, err = k.ecdsa()
	case k.KeyType == "OKP" && k.Curve == "Ed25519":
		algorithm = EdDSA
		public, err = k.ed25519()
	default:
		return Key{}, errUnusableKey
	}
	if err != nil || (k.Algorithm != "" && k.Algorithm != algorithm) {
		return Key{}, errUnusableKey
	}
	return Key{ID: k.ID, Algorithm: algorithm, Public: public}, nil
}

func (k jwk) rsa() (*rsa.PublicKey, error) {
	n, errN := base64.RawURLEncoding.DecodeString(k.N)
	e, errE := base64.RawURLEncoding.DecodeString(k.E)
	if errN != nil || errE != nil {
		return nil, errUnusableKey
	}
	modulus, exponent := new(big.Int).SetBytes(n), new(big.Int).SetBytes(e)
	// crypto/rsa refuses larger exponents, and even or tiny ones make signatures forgeable.
	if modulus.BitLen() < minRSABits || exponent.BitLen() > 31 || exponent.Bit(0) == 0 || exponent.Cmp(big.NewInt(3)) < 0 {
		return nil, errUnusableKey
	}
	return &rsa.PublicKey{N: modulus, E: int(exponent.Int64())}, nil
}

func (k jwk) ecdsa() (*ecdsa.PublicKey, error) {
	x, errX := base64.RawURLEncoding.DecodeString(k.X)
	y, errY := base64.RawURLEncoding.DecodeString(k.Y)
	if errX != nil || errY != nil || len(x) != 32 || len(y) != 32 {
		return nil, errUnusableKey
	}
	uncompressed := append(append([]byte{4}, x...), y...)
	// This also checks that the point is on the curve.
	return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), uncompressed)
}

func (k jwk) ed25519() (ed25519.PublicKey, error) {
	x, err := base64.RawURLEncoding.DecodeString(k.X)
	if err != nil || len(x) != ed25519.PublicKeySize {
		return nil, errUnusableKey
	}
	return ed25519.PublicKey(x), nil
}

// MarshalJWKS writes keys as a JWK set, in order, with kid, use, alg and the public parameters. A key that ParseJWKS would
// not read back is an error.
func MarshalJWKS(keys []Key) ([]byte, error) {
	set := jwks{Keys: make([]jwk, 0, len(keys))}
	for _, key := range keys {
		k, err := publicJWK(key)
		if err != nil {
			return nil, fmt.Errorf("write JWK set: key %q: %w", key.ID, err)
		}
		set.Keys = append(set.Keys, k)
	}
	return json.Marshal(set)
}

func publicJWK(key Key) (jwk, error) {
	k := jwk{Use: "sig", ID: key.ID, Algorithm: key.Algorithm}
	encode := base64.RawURLEncoding.EncodeToString
	switch public := key.Public.(type) {
	case *rsa.PublicKey:
		k.KeyType = "RSA"
		k.N = encode(public.N.Bytes())
		k.E = encode(big.NewInt(int64(public.E)).Bytes())
	case *ecdsa.PublicKey:
		point, err := public.Bytes()
		if err != nil {
			return jwk{}, err
		}
		k.KeyType, k.Curve = "EC", public.Params().Name
		half := (len(point) - 1) / 2
		k.X, k.Y = encode(point[1:1+half]), encode(point[1+half:])
	case ed25519.PublicKey:
		k.KeyType, k.Curve, k.X = "OKP", "Ed25519", encode(public)
	}
	if _, err := k.key(); err != nil {
		return jwk{}, err
	}
	return k, nil
}
