package keys

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
)

// encryptionKeyBytes is the length of the AES-256 key.
const encryptionKeyBytes = 32

// Sealer encrypts private keys at rest with AES-256-GCM. What it sealed is bound
// to the id and the algorithm of the key: a row copied over another does not open.
type Sealer struct{ aead cipher.AEAD }

// NewSealer takes KEY_ENCRYPTION_KEY: 32 bytes in standard base64. Its errors
// never repeat the value.
func NewSealer(encryptionKey string) (*Sealer, error) {
	raw, err := base64.StdEncoding.DecodeString(encryptionKey)
	if err != nil {
		return nil, errors.New("must be base64 (32 bytes), for example from: openssl rand -base64 32")
	}
	if len(raw) != encryptionKeyBytes {
		return nil, fmt.Errorf("must be %d bytes in base64, not %d", encryptionKeyBytes, len(raw))
	}
	block, err := aes.NewCipher(raw)
	if err != nil {
		return nil, fmt.Errorf("prepare AES: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("prepare GCM: %w", err)
	}
	return &Sealer{aead: aead}, nil
}

func associated(kid string, alg Algorithm) []byte { return []byte(string(alg) + "\x00" + kid) }

func (s *Sealer) seal(kid string, alg Algorithm, key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode the private key: %w", err)
	}
	nonce := make([]byte, s.aead.NonceSize(), s.aead.NonceSize()+len(der)+s.aead.Overhead())
	_, _ = rand.Read(nonce) // never fails: the runtime ends the process instead
	return s.aead.Seal(nonce, nonce, der, associated(kid, alg)), nil
}

func (s *Sealer) open(kid string, alg Algorithm, sealed []byte) (crypto.Signer, error) {
	size := s.aead.NonceSize()
	if len(sealed) < size {
		return nil, fmt.Errorf("signing key %s: the sealed bytes are too short", kid)
	}
	der, err := s.aead.Open(nil, sealed[:size], sealed[size:], associated(kid, alg))
	if err != nil {
		return nil, fmt.Errorf("signing key %s does not open under KEY_ENCRYPTION_KEY: %w", kid, err)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("signing key %s: parse: %w", kid, err)
	}
	signer, ok := parsed.(crypto.Signer)
	if !ok || !alg.fits(signer) {
		return nil, fmt.Errorf("signing key %s is not a key for %s", kid, alg)
	}
	return signer, nil
}
