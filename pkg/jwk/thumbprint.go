package jwk

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
)

// Thumbprint is the RFC 7638 thumbprint of the key, with SHA-256: the digest of the members that make the key, in order of
// their names. Keys with other IDs and algorithms have the same one. A key that no set could hold is an error.
func (k Key) Thumbprint() (string, error) {
	w, err := Key{Public: k.Public}.wire()
	if err != nil {
		return "", fmt.Errorf("thumbprint of a key: %w", err)
	}
	var members string
	switch k.Public.(type) {
	case *rsa.PublicKey:
		members = fmt.Sprintf(`{"e":%q,"kty":%q,"n":%q}`, w.E, w.KeyType, w.N)
	case *ecdsa.PublicKey:
		members = fmt.Sprintf(`{"crv":%q,"kty":%q,"x":%q,"y":%q}`, w.Curve, w.KeyType, w.X, w.Y)
	case ed25519.PublicKey:
		members = fmt.Sprintf(`{"crv":%q,"kty":%q,"x":%q}`, w.Curve, w.KeyType, w.X)
	}
	digest := sha256.Sum256([]byte(members))
	return base64.RawURLEncoding.EncodeToString(digest[:]), nil
}
