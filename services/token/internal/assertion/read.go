package assertion

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"time"

	"github.com/sentryagent/agentidp/pkg/jwk"
)

// Type is the client_assertion_type of a JWT (RFC 7523 §2.2).
const Type = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// MaxBytes is the longest assertion that is looked at.
const MaxBytes = 8 << 10

var errMalformed = errors.New("the assertion is not a well-formed JWT")

// Assertion is what somebody sent. The zero value is none.
type Assertion struct {
	// ClientID is its sub: who it claims to be from.
	ClientID string
	// ID is its jti.
	ID string
	// ExpiresAt is its exp.
	ExpiresAt time.Time

	fault     error // of what could not be read
	header    members
	claims    members
	signed    string // what the signature is of
	signature []byte
}

// Read reads a JWT in compact form (RFC 7515 §7.1). It is strict: base64url has one
// spelling, JSON no member twice, and there is no other form. What cannot be read is
// an Assertion too, which Check refuses, so that it takes the same way as any other.
func Read(raw string) Assertion {
	a, err := read(raw)
	a.fault = err
	return a
}

func read(raw string) (a Assertion, err error) {
	if len(raw) > MaxBytes {
		return a, errMalformed
	}
	parts := strings.Split(raw, ".")
	if len(parts) != 3 {
		return a, errMalformed
	}
	var decoded [3][]byte
	for i, part := range parts {
		if decoded[i], err = octets(part); err != nil {
			return a, err
		}
	}
	a.signed, a.signature = raw[:strings.LastIndexByte(raw, '.')], decoded[2]
	if a.header, err = readObject(decoded[0]); err != nil {
		return a, err
	}
	if a.claims, err = readObject(decoded[1]); err != nil {
		return a, err
	}
	// Of the wrong type they are empty here, and Check says so.
	a.ClientID, _ = a.claims.text("sub")
	a.ID, _ = a.claims.text("jti")
	a.ExpiresAt, _ = a.claims.time("exp")
	return a, nil
}

// Fits tells whether exactly one of the keys may verify the assertion: one for its
// algorithm, and of the id it names if it names one.
func (a Assertion) Fits(keys []jwk.Key) bool {
	_, err := a.choose(keys)
	return err == nil
}

var (
	errNoKey    = errors.New("no key of the client fits the assertion's alg and kid")
	errManyKeys = errors.New("more than one key of the client fits the assertion's alg and kid")
)

// algorithm is the alg that the header names, by its canonical name.
func (a Assertion) algorithm() string {
	name, _ := a.header.text("alg")
	return jwk.Canonical(name)
}

// choose finds the key. More than one is nobody's guess to make: the client has to
// name it. A key without an id is not meant by any kid.
func (a Assertion) choose(keys []jwk.Key) (chosen jwk.Key, err error) {
	err = errNoKey
	algorithm := a.algorithm()
	kid, _ := a.header.text("kid")
	for _, key := range keys {
		if !key.Fits(algorithm) || (a.header.has("kid") && key.ID != kid) {
			continue
		}
		if err == nil {
			return jwk.Key{}, errManyKeys
		}
		chosen, err = key, nil
	}
	return chosen, err
}

// octets decodes base64url in its one spelling (RFC 7515 §2): the decoder would skip line ends.
func octets(part string) ([]byte, error) {
	if strings.ContainsAny(part, "\r\n") {
		return nil, errMalformed
	}
	decoded, err := base64.RawURLEncoding.Strict().DecodeString(part)
	if err != nil {
		return nil, errMalformed
	}
	return decoded, nil
}

// members are those of a JSON object, by their exact names.
type members map[string]json.RawMessage

func (m members) has(name string) bool {
	_, ok := m[name]
	return ok
}

// text gives a member that is a string; ok is false for what is missing or anything else.
func (m members) text(name string) (value string, ok bool) {
	raw := m[name]
	if len(raw) == 0 || raw[0] != '"' {
		return "", false
	}
	return value, json.Unmarshal(raw, &value) == nil
}

// latest is a time that no clock shows and that every type here can hold.
const latest = 1e11

// time gives a member that is a NumericDate (RFC 7519 §2), a number of seconds, which may have a fraction.
func (m members) time(name string) (value time.Time, ok bool) {
	var seconds float64
	raw := m[name]
	if len(raw) == 0 || raw[0] == 'n' || json.Unmarshal(raw, &seconds) != nil || seconds < 0 || seconds > latest {
		return time.Time{}, false
	}
	whole, fraction := math.Modf(seconds)
	return time.Unix(int64(whole), int64(fraction*float64(time.Second))).UTC(), true
}
