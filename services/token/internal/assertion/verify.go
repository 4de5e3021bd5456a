package assertion

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sentryagent/agentidp/pkg/authn"
	"github.com/sentryagent/agentidp/pkg/jwk"
)

const (
	// MaxLifetime is how long an assertion may live, from iat and from now on.
	MaxLifetime = 5 * time.Minute
	// maxID is the longest jti, in characters.
	maxID = 255
)

// Algorithms are the names of those that an assertion may be signed with. Two of them are of one algorithm: some
// clients sign by the older name, some only by that of RFC 9864.
func Algorithms() []string {
	return []string{jwk.RS256, jwk.PS256, jwk.ES256, jwk.EdDSA, jwk.Ed25519}
}

// Verifier holds assertions against what a client must say. It is safe for concurrent use.
type Verifier struct {
	issuer string
	clock  func() time.Time
	// decoys have nobody's private key. They are verified against where there is no key, so that it costs the same.
	decoys map[string]crypto.PublicKey
}

// NewVerifier makes a Verifier of assertions that are meant for the issuer. It fails only if the system has no random bytes.
func NewVerifier(issuer string, clock func() time.Time) (*Verifier, error) {
	modulus, errRSA := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), jwk.MinRSABits-1))
	private, errEC := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	public, _, errEd := ed25519.GenerateKey(rand.Reader)
	if err := errors.Join(errRSA, errEC, errEd); err != nil {
		return nil, fmt.Errorf("make decoy keys: %w", err)
	}
	// Any odd number of that size will do: nobody needs to sign with it, and finding primes would take long.
	modulus.SetBit(modulus, jwk.MinRSABits-1, 1).SetBit(modulus, 0, 1)
	decoy := &rsa.PublicKey{N: modulus, E: 65537}
	return &Verifier{issuer: issuer, clock: clock, decoys: map[string]crypto.PublicKey{
		jwk.RS256: decoy, jwk.PS256: decoy, jwk.ES256: &private.PublicKey, jwk.EdDSA: public,
	}}, nil
}

var (
	errAlgorithm = errors.New("the assertion's alg is not one of " + strings.Join(Algorithms(), ", "))
	errHeader    = errors.New("the assertion's header is not one of a client assertion")
	errSubject   = errors.New("the assertion's iss and sub are not both the client's id")
	errAudience  = errors.New("the assertion's aud is not the issuer, and nothing else")
	errExpired   = errors.New("the assertion has expired, or says not when")
	errTooLong   = errors.New("the assertion lives longer than 5 minutes")
	errBackwards = errors.New("the assertion does not expire after it was issued")
	errTooEarly  = errors.New("the assertion is not valid yet")
	errID        = errors.New("the assertion has no jti of 1 to 255 characters")
	errSignature = errors.New("the assertion's signature is not by the client's key")
)

// Check holds what the assertion says against RFC 7523 §3. Its error is a fixed text
// of this package and for the log: a client is told no reason.
func (v *Verifier) Check(a Assertion) error {
	if a.fault != nil {
		return a.fault
	}
	if err := a.checkHeader(); err != nil {
		return err
	}
	issuer, ok := a.claims.text("iss")
	if !ok || a.ClientID == "" || issuer != a.ClientID {
		return errSubject
	}
	if !a.isFor(v.issuer) {
		return errAudience
	}
	if length := len([]rune(a.ID)); length < 1 || length > maxID {
		return errID
	}
	return a.checkTimes(v.clock())
}

// checkHeader is about alg, typ and crit. The typ of access tokens is refused like every
// other: what was signed for one purpose must not serve another (RFC 8725 §3.11).
func (a Assertion) checkHeader() error {
	if method(a.algorithm()) == nil {
		return errAlgorithm
	}
	if a.header.has("typ") {
		typ, _ := a.header.text("typ")
		switch strings.TrimPrefix(strings.ToLower(typ), "application/") {
		case "jwt", "client-authentication+jwt":
		default:
			return errHeader
		}
	}
	kid, isText := a.header.text("kid")
	// A crit header names extensions that must be understood (RFC 7515 §4.1.11), and none is.
	if a.header.has("crit") || (a.header.has("kid") && (!isText || kid == "")) {
		return errHeader
	}
	return nil
}

// isFor tells whether aud is the issuer alone, as a string or as a list of one: an
// assertion that is good elsewhere as well could have come from there.
func (a Assertion) isFor(issuer string) bool {
	if audience, ok := a.claims.text("aud"); ok {
		return audience == issuer
	}
	var list []json.RawMessage
	if json.Unmarshal(a.claims["aud"], &list) != nil || len(list) != 1 {
		return false
	}
	only, ok := members{"aud": list[0]}.text("aud")
	return ok && only == issuer
}

func (a Assertion) checkTimes(now time.Time) error {
	if _, ok := a.claims.time("exp"); !ok || !now.Before(a.ExpiresAt.Add(authn.Leeway)) {
		return errExpired
	}
	if a.ExpiresAt.After(now.Add(MaxLifetime + authn.Leeway)) {
		return errTooLong
	}
	for _, name := range []string{"iat", "nbf"} {
		if !a.claims.has(name) {
			continue
		}
		at, ok := a.claims.time(name)
		if !ok || at.After(now.Add(authn.Leeway)) {
			return errTooEarly
		}
		if name == "nbf" {
			continue
		}
		switch lifetime := a.ExpiresAt.Sub(at); {
		case lifetime <= 0:
			return errBackwards
		case lifetime > MaxLifetime:
			return errTooLong
		}
	}
	return nil
}

// Verify verifies the signature with the one of the keys that fits. Whether there is
// one or not, it costs one verification by the assertion's algorithm. Its error is a
// fixed text of this package, for the log.
func (v *Verifier) Verify(a Assertion, keys []jwk.Key) error {
	algorithm := a.algorithm()
	how := method(algorithm)
	if how == nil {
		how, algorithm = jwt.SigningMethodRS256, jwk.RS256
	}
	key, err := a.choose(keys)
	if err != nil {
		// Whatever comes out of it: there is no key.
		_ = how.Verify(a.signed, a.signature, v.decoys[algorithm])
		return err
	}
	if how.Verify(a.signed, a.signature, key.Public) != nil {
		return errSignature
	}
	return nil
}

// method is that of an algorithm by its canonical name, nil for one that no assertion may be signed with.
func method(algorithm string) jwt.SigningMethod {
	switch algorithm {
	case jwk.RS256:
		return jwt.SigningMethodRS256
	case jwk.PS256:
		return jwt.SigningMethodPS256
	case jwk.ES256:
		return jwt.SigningMethodES256
	case jwk.EdDSA:
		return jwt.SigningMethodEdDSA
	default:
		return nil
	}
}
