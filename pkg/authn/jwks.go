package authn

import (
	"errors"
	"fmt"

	"github.com/sentryagent/agentidp/pkg/jwk"
)

// ParseJWKS reads the signing keys of this issuer from a JWK set (RFC 7517). Keys for another use, of another kind or too weak
// are left out, as RFC 7517 §5 asks; so are keys without an id. A set that has none left, or two of one id, is an error.
func ParseJWKS(data []byte) ([]Key, error) {
	all, err := jwk.ReadSet(data)
	if err != nil {
		return nil, fmt.Errorf("parse signing keys: %w", err)
	}
	keys := make([]Key, 0, len(all))
	seen := make(map[string]bool, len(all))
	for _, k := range all {
		key, ok := signingKey(k)
		if !ok {
			continue
		}
		if seen[key.ID] {
			return nil, fmt.Errorf("parse signing keys: more than one key %q", key.ID)
		}
		seen[key.ID] = true
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, errors.New("parse signing keys: no usable signing key in the set")
	}
	return keys, nil
}

// signingKey is the key with the one algorithm of its kind that this issuer signs with, if that is the key's.
func signingKey(k jwk.Key) (Key, bool) {
	for _, algorithm := range []string{RS256, ES256, EdDSA} {
		if k.ID != "" && k.Fits(algorithm) {
			return Key{ID: k.ID, Algorithm: algorithm, Public: k.Public}, true
		}
	}
	return Key{}, false
}

// MarshalJWKS writes keys as a JWK set, in order, with kid, use, alg and the public parameters. A key that ParseJWKS would
// not read back is an error.
func MarshalJWKS(keys []Key) ([]byte, error) {
	set := make([]jwk.Key, 0, len(keys))
	for _, key := range keys {
		written, ok := signingKey(jwk.Key(key))
		if !ok || written.Algorithm != key.Algorithm {
			return nil, fmt.Errorf("write signing keys: key %q is not one that a token could be verified with", key.ID)
		}
		set = append(set, jwk.Key(key))
	}
	return jwk.MarshalSet(set)
}
