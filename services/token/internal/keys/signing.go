package keys

import (
	"crypto"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/golang-jwt/jwt/v5"
)

var (
	errNotLoaded   = errors.New("signing keys are not loaded yet")
	errGoesTooSoon = errors.New("the active signing key is not kept for as long as TOKEN_TTL yet")
	errTooOld      = errors.New("signing keys could not be read for an hour; the active one may be retired")
)

// SigningKey signs access tokens. The JOSE header is written once: it is the
// same for every token of a key.
type SigningKey struct {
	ID        string
	Algorithm Algorithm
	header    string
	method    jwt.SigningMethod
	private   crypto.Signer
}

func newSigningKey(kid string, alg Algorithm, private crypto.Signer) (*SigningKey, error) {
	method := jwt.GetSigningMethod(string(alg))
	if method == nil {
		return nil, fmt.Errorf("no signing method for %q", string(alg))
	}
	header, err := json.Marshal(struct {
		Algorithm Algorithm `json:"alg"`
		Type      string    `json:"typ"` // RFC 9068 §2.1
		ID        string    `json:"kid"`
	}{alg, "at+jwt", kid})
	if err != nil {
		return nil, fmt.Errorf("write the header: %w", err)
	}
	return &SigningKey{ID: kid, Algorithm: alg, header: encode(header) + ".", method: method, private: private}, nil
}

// Sign makes the compact JWS (RFC 7515 §7.1) of a claims set.
func (k *SigningKey) Sign(claims []byte) (string, error) {
	coding := base64.RawURLEncoding
	buffer := make([]byte, 0, len(k.header)+coding.EncodedLen(len(claims)))
	buffer = append(buffer, k.header...)
	buffer = coding.AppendEncode(buffer, claims)
	signed := string(buffer)
	signature, err := k.method.Sign(signed, k.private)
	if err != nil {
		return "", fmt.Errorf("sign: %w", err)
	}
	return signed + "." + coding.EncodeToString(signature), nil
}
