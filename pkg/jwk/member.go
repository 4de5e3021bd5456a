package jwk

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"unicode"

	"filippo.io/edwards25519"

	"github.com/sentryagent/agentidp/pkg/apperr"
)

// member is one JSON Web Key as it came, by the exact names of its parameters: struct tags would take "D" for "d".
type member map[string]json.RawMessage

const coordinateBytes = 32 // of P-256

// key reads the key and lists what is wrong with it by parameter, "" for the key as a whole; whether it is private is for
// private and privateIn to say. Text in it that is not the name
// of a parameter never gets into a reason: it may be secret.
func (m member) key() (Key, []apperr.FieldError) {
	var faults apperr.Fields
	if m == nil {
		faults.Add("", "must be an object")
		return Key{}, faults.All()
	}
	key := Key{ID: m.id(&faults)}
	m.checkUse(&faults)
	switch m.text("kty") {
	case "RSA":
		key.Public = m.rsa(&faults)
	case "EC":
		key.Public = m.ecdsa(&faults)
	case "OKP":
		key.Public = m.ed25519(&faults)
	default:
		faults.Add("kty", "must be one of RSA, EC, OKP")
	}
	key.Algorithm = m.text("alg")
	if known := algorithmsOf(key.Public); m.has("alg") && len(known) > 0 && !slices.Contains(known, key.Algorithm) {
		faults.Add("alg", "must be "+strings.Join(known, " or ")+" for a key of this kind")
	}
	return key, faults.All()
}

func (m member) has(name string) bool {
	_, ok := m[name]
	return ok
}

// text gives a parameter that is a string, "" for what is none: no parameter that is asked for may be empty.
func (m member) text(name string) string {
	var value string
	if err := json.Unmarshal(m[name], &value); err != nil {
		return ""
	}
	return value
}

func (m member) id(faults *apperr.Fields) string {
	id := m.text("kid")
	control := strings.IndexFunc(id, unicode.IsControl) >= 0
	if m.has("kid") && (id == "" || len(id) > MaxKeyID || control) {
		faults.Add("kid", fmt.Sprintf("must be a string of 1 to %d bytes without control characters", MaxKeyID))
	}
	return id
}

func (m member) checkUse(faults *apperr.Fields) {
	if m.has("use") && m.text("use") != "sig" {
		faults.Add("use", `must be "sig"`)
	}
	if !m.has("key_ops") {
		return
	}
	var operations []string
	if err := json.Unmarshal(m["key_ops"], &operations); err != nil || !slices.Contains(operations, "verify") {
		faults.Add("key_ops", `must be a list with "verify" in it`)
	}
}

// octets decodes a base64url parameter (RFC 7515 §2). The decoder skips line ends and leftover bits, so the value is held
// against its one right spelling.
func (m member) octets(name string, faults *apperr.Fields) []byte {
	value := m.text(name)
	if value == "" {
		faults.Add(name, "must be a base64url string")
		return nil
	}
	decoded, err := base64.RawURLEncoding.DecodeString(value)
	if err != nil || base64.RawURLEncoding.EncodeToString(decoded) != value {
		faults.Add(name, "must be base64url without padding")
		return nil
	}
	return decoded
}

func (m member) rsa(faults *apperr.Fields) crypto.PublicKey {
	n, e := m.octets("n", faults), m.octets("e", faults)
	if n == nil || e == nil {
		return nil
	}
	exponent := new(big.Int).SetBytes(e)
	// crypto/rsa takes no larger exponent.
	if exponent.BitLen() > 31 {
		faults.Add("e", "must be less than 2^31")
		return nil
	}
	public := &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(exponent.Int64())}
	switch fault := rsaFault(public.N, public.E); fault {
	case "":
		return public
	case faultOfExponent:
		faults.Add("e", fault)
	default:
		faults.Add("n", fault)
	}
	return nil
}

const faultOfExponent = "must be odd and at least 3"

// rsaFault says what is wrong with an RSA key, or "". An even or tiny exponent makes signatures forgeable.
func rsaFault(modulus *big.Int, exponent int) string {
	switch {
	case modulus == nil || modulus.BitLen() < MinRSABits || modulus.BitLen() > MaxRSABits:
		return fmt.Sprintf("must be a modulus of %d to %d bit", MinRSABits, MaxRSABits)
	case modulus.Bit(0) == 0:
		return "must be an odd modulus"
	case exponent < 3 || exponent%2 == 0:
		return faultOfExponent
	}
	return ""
}

func (m member) ecdsa(faults *apperr.Fields) crypto.PublicKey {
	if curve := m.text("crv"); curve != "P-256" {
		faults.Add("crv", "must be P-256 for kty EC")
		return nil
	}
	x, y := m.octets("x", faults), m.octets("y", faults)
	if x == nil || y == nil {
		return nil
	}
	if len(x) != coordinateBytes || len(y) != coordinateBytes {
		faults.Add("x", fmt.Sprintf("and y must be %d bytes each", coordinateBytes))
		return nil
	}
	uncompressed := append(append([]byte{4}, x...), y...)
	// This also checks that the point is on the curve.
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), uncompressed)
	if err != nil {
		faults.Add("x", "and y must be a point on P-256")
		return nil
	}
	return public
}

func (m member) ed25519(faults *apperr.Fields) crypto.PublicKey {
	if curve := m.text("crv"); curve != "Ed25519" {
		faults.Add("crv", "must be Ed25519 for kty OKP")
		return nil
	}
	x := m.octets("x", faults)
	if x == nil {
		return nil
	}
	if len(x) != ed25519.PublicKeySize {
		faults.Add("x", fmt.Sprintf("must be %d bytes", ed25519.PublicKeySize))
		return nil
	}
	if fault := ed25519Fault(x); fault != "" {
		faults.Add("x", fault)
		return nil
	}
	return ed25519.PublicKey(x)
}

// ed25519Fault says what is wrong with 32 bytes as an Ed25519 key, or "". A point of small order verifies signatures that
// anybody can make, of any message; of the spellings of a point that are read here beyond RFC 8032 §5.1.3, none is right.
func ed25519Fault(x []byte) string {
	point, err := new(edwards25519.Point).SetBytes(x)
	switch {
	case err != nil, !bytes.Equal(point.Bytes(), x):
		return "must be a point on Ed25519 (RFC 8032 §5.1.3)"
	case new(edwards25519.Point).MultByCofactor(point).Equal(edwards25519.NewIdentityPoint()) == 1:
		return "must not be a point of small order"
	}
	return ""
}
