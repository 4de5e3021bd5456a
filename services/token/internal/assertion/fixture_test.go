package assertion_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/jwk"
	"github.com/sentryagent/agentidp/services/token/internal/assertion"
)

const (
	issuer = "https://idp.example.com"
	client = "019aa9c0-7d52-7c3e-9b0a-5f0d3c1e8a41"
)

var now = time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)

// signers are made once: RSA keys take long.
var signers = sync.OnceValue(func() map[string]crypto.Signer {
	rsaKey, errRSA := rsa.GenerateKey(rand.Reader, 2048)
	foreign, errForeign := rsa.GenerateKey(rand.Reader, 2048)
	ec, errEC := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	_, ed, errEd := ed25519.GenerateKey(rand.Reader)
	if err := errors.Join(errRSA, errForeign, errEC, errEd); err != nil {
		panic(err)
	}
	return map[string]crypto.Signer{"rsa": rsaKey, "foreign": foreign, "ec": ec, "ed": ed}
})

func key(name string) jwk.Key { return jwk.Key{ID: name, Public: signers()[name].Public()} }

// set has one key of each kind.
func set() []jwk.Key { return []jwk.Key{key("rsa"), key("ec"), key("ed")} }

// draft is what a good assertion says; tests change it before it is signed.
type draft struct {
	method jwt.SigningMethod
	key    any
	header map[string]any
	claims jwt.MapClaims
}

func good() draft {
	return draft{
		method: jwt.SigningMethodES256, key: signers()["ec"], header: map[string]any{},
		claims: jwt.MapClaims{
			"iss": client, "sub": client, "aud": issuer, "jti": "once",
			"iat": now.Unix(), "exp": now.Add(time.Minute).Unix(),
		},
	}
}

func (d draft) sign(tb testing.TB) string {
	tb.Helper()
	unsigned := jwt.NewWithClaims(d.method, d.claims)
	delete(unsigned.Header, "typ")
	maps.Copy(unsigned.Header, d.header)
	raw, err := unsigned.SignedString(d.key)
	require.NoError(tb, err)
	return raw
}

// signText signs header and claims as they are written.
func signText(tb testing.TB, header, claims string) string {
	tb.Helper()
	encode := base64.RawURLEncoding.EncodeToString
	text := encode([]byte(header)) + "." + encode([]byte(claims))
	signature, err := jwt.SigningMethodES256.Sign(text, signers()["ec"])
	require.NoError(tb, err)
	return text + "." + encode(signature)
}

// claimsText is the JSON of the claims of a good assertion.
func claimsText(tb testing.TB) string {
	tb.Helper()
	text, err := json.Marshal(good().claims)
	require.NoError(tb, err)
	return string(text)
}

func verifier(tb testing.TB) *assertion.Verifier {
	tb.Helper()
	v, err := assertion.NewVerifier(issuer, func() time.Time { return now })
	require.NoError(tb, err)
	return v
}

// judge does what a caller does: nil means that the assertion proves who its ClientID is.
func judge(v *assertion.Verifier, raw string, keys []jwk.Key) error {
	a := assertion.Read(raw)
	return errors.Join(v.Check(a), v.Verify(a, keys))
}
