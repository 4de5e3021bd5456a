package keys

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/sentryagent/agentidp/pkg/jwk"
)

// PrivateKey is an operator's own signing key, ready to be imported.
type PrivateKey struct {
	Algorithm Algorithm // the one that this kind of key signs with
	signer    crypto.Signer
}

// ParsePrivateKey reads JWT_PRIVATE_KEY: one unencrypted private key in PEM, as
// PKCS #8, PKCS #1 (RSA) or SEC 1 (EC). "\n" may stand for the line breaks, as
// files of environment variables have it. Its errors say what is wrong with the
// key and show none of it.
func ParsePrivateKey(text string) (PrivateKey, error) {
	if !strings.Contains(text, "\n") {
		text = strings.ReplaceAll(text, `\n`, "\n")
	}
	block, err := onlyKey([]byte(text))
	if err != nil {
		return PrivateKey{}, err
	}
	parsed, err := parseBlock(block)
	if err != nil {
		return PrivateKey{}, err
	}
	switch key := parsed.(type) {
	case *rsa.PrivateKey:
		bits := key.N.BitLen()
		if bits < rsaBits || bits > jwk.MaxRSABits { // the most, so that a token does not take a core for long
			return PrivateKey{}, fmt.Errorf("is an RSA key of %d bits; it must have %d to %d", bits, rsaBits, jwk.MaxRSABits)
		}
		return PrivateKey{RS256, key}, nil
	case *ecdsa.PrivateKey:
		if key.Curve != elliptic.P256() {
			return PrivateKey{}, fmt.Errorf("is an EC key on %s; only P-256 is supported", key.Params().Name)
		}
		return PrivateKey{ES256, key}, nil
	case ed25519.PrivateKey:
		return PrivateKey{EdDSA, key}, nil
	default:
		return PrivateKey{}, errors.New("is a key of a kind that does not sign; it must be RSA, EC P-256 or Ed25519")
	}
}

// onlyKey finds the one private key of a PEM text. The curve's parameters, which
// openssl writes in front of an EC key, do not count.
func onlyKey(text []byte) (*pem.Block, error) {
	var found *pem.Block
	for {
		var block *pem.Block
		block, text = pem.Decode(text)
		switch {
		case block == nil && found == nil:
			return nil, errors.New("holds no private key in PEM (-----BEGIN PRIVATE KEY-----)")
		case block == nil && bytes.Contains(text, []byte("-----BEGIN")):
			return nil, errors.New("holds more than one private key, or what follows it is damaged")
		case block == nil:
			return found, nil
		case block.Type == "EC PARAMETERS":
		case block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "":
			return nil, errors.New("is encrypted with a passphrase; give it without (openssl pkey -in KEY)")
		case !strings.HasSuffix(block.Type, "PRIVATE KEY"):
			return nil, fmt.Errorf("holds a %s; it must be a private key", block.Type)
		case found != nil:
			return nil, errors.New("holds more than one private key")
		default:
			found = block
		}
	}
}

func parseBlock(block *pem.Block) (any, error) {
	var parsed any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		parsed, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		parsed, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("holds a %s; it must be PKCS #8, PKCS #1 or SEC 1", block.Type)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot be read as %s: %w", block.Type, err)
	}
	return parsed, nil
}
