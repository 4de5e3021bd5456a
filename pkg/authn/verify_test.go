package authn_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/authn"
	"github.com/sentryagent/agentidp/pkg/testkit"
)

const issuer = "https://idp.example"

// signers are made once: RSA keys take long.
var signers = sync.OnceValue(func() map[string]crypto.Signer {
	rsaKey, errRSA := rsa.GenerateKey(rand.Reader, 2048)
	foreign, errForeign := rsa.GenerateKey(rand.Reader, 2048)
	ec, errEC := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	_, ed, errEd := ed25519.GenerateKey(rand.Reader)
	if err := errors.Join(errRSA, errForeign, errEC, errEd); err != nil {
		panic(err)
	}
	return map[string]crypto.Signer{"rsa": rsaKey, "ec": ec, "ed": ed, "foreign": foreign}
})

func keySet() testkit.StaticKeys {
	return testkit.StaticKeys{
		{ID: "rsa", Algorithm: authn.RS256, Public: signers()["rsa"].Public()},
		{ID: "ec", Algorithm: authn.ES256, Public: signers()["ec"].Public()},
		{ID: "ed", Algorithm: authn.EdDSA, Public: signers()["ed"].Public()},
	}
}

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

const agent = "0190a7c0-0000-4000-8000-00000000000a"

// jtiAt is a UUIDv7 of that time.
func jtiAt(at time.Time) string {
	id := uuid.MustParse("00000000-0000-7000-8000-0000000000ff")
	ms := uint64(at.UnixMilli())
	for i := range 6 {
		id[i] = byte(ms >> (40 - 8*i))
	}
	return id.String()
}

// token is what a good token says; tests change it before it is signed.
type token struct {
	method jwt.SigningMethod
	key    any
	header map[string]any
	claims jwt.MapClaims
}

func goodToken() token {
	return token{
		method: jwt.SigningMethodRS256,
		key:    signers()["rsa"],
		header: map[string]any{"typ": "at+jwt", "kid": "rsa"},
		claims: jwt.MapClaims{
			"iss": issuer, "aud": issuer, "sub": agent, "client_id": agent,
			"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix(),
			"jti": jtiAt(now.Add(250 * time.Millisecond)), "scope": "agents:read resume:read", "owner": "team-a",
		},
	}
}

func (k token) sign(tb testing.TB) string {
	tb.Helper()
	unsigned := jwt.NewWithClaims(k.method, k.claims)
	maps.Copy(unsigned.Header, k.header)
	raw, err := unsigned.SignedString(k.key)
	require.NoError(tb, err)
	return raw
}

func verifierAt(at time.Time) *authn.Verifier {
	return authn.NewVerifier(authn.VerifierConfig{
		Issuer: issuer, Audience: issuer, Keys: keySet(), Clock: func() time.Time { return at },
	})
}

func requireInvalidToken(tb testing.TB, err error) {
	tb.Helper()
	var e *apperr.Error
	require.ErrorAs(tb, err, &e)
	require.Equal(tb, apperr.Unauthorized, e.Code)
	require.Contains(tb, e.Challenge, `Bearer realm="agentidp", error="invalid_token", error_description="`)
}

func TestVerifyGivesThePrincipal(t *testing.T) {
	t.Parallel()
	p, err := verifierAt(now).Verify(t.Context(), goodToken().sign(t))
	require.NoError(t, err)
	require.Equal(t, authn.Principal{
		AgentID:   uuid.MustParse(agent),
		Scopes:    []string{"agents:read", "resume:read"},
		TokenID:   jtiAt(now.Add(250 * time.Millisecond)),
		IssuedAt:  now.Add(250 * time.Millisecond),
		ExpiresAt: now.Add(time.Hour),
		Owner:     "team-a",
	}, p)
}

func TestVerifyAccepts(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*token){
		"an ES256 token of an ES256 key": func(k *token) {
			k.method, k.key, k.header["kid"] = jwt.SigningMethodES256, signers()["ec"], "ec"
		},
		"an EdDSA token of an Ed25519 key": func(k *token) {
			k.method, k.key, k.header["kid"] = jwt.SigningMethodEdDSA, signers()["ed"], "ed"
		},
		"the typ in its long form":          func(k *token) { k.header["typ"] = "application/at+jwt" },
		"the typ in capitals":               func(k *token) { k.header["typ"] = "AT+JWT" },
		"a list of the one audience":        func(k *token) { k.claims["aud"] = []string{issuer} },
		"a token without scope":             func(k *token) { delete(k.claims, "scope") },
		"a token without owner":             func(k *token) { delete(k.claims, "owner") },
		"a token that expired 4 s ago":      func(k *token) { k.claims["exp"] = now.Add(-4 * time.Second).Unix() },
		"a token that is valid in 5 s":      func(k *token) { k.claims["nbf"] = now.Add(5 * time.Second).Unix() },
		"a token issued 5 s in the future":  func(k *token) { k.claims["iat"] = now.Add(5 * time.Second).Unix() },
		"a token without nbf (RFC 9068 §2)": func(k *token) { delete(k.claims, "nbf") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := goodToken()
			change(&k)
			_, err := verifierAt(now).Verify(t.Context(), k.sign(t))
			require.NoError(t, err)
		})
	}
}

func TestVerifyRefuses(t *testing.T) {
	t.Parallel()
	rsaPEM := func() []byte {
		der, err := x509.MarshalPKIXPublicKey(signers()["rsa"].Public())
		require.NoError(t, err)
		return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	}
	rsaJWK := func() []byte {
		set, err := authn.MarshalJWKS(keySet()[:1])
		require.NoError(t, err)
		return set
	}
	hs256 := func(secret []byte) func(*token) {
		return func(k *token) { k.method, k.key = jwt.SigningMethodHS256, secret }
	}
	claim := func(name string, value any) func(*token) {
		return func(k *token) { k.claims[name] = value }
	}
	without := func(name string) func(*token) {
		return func(k *token) { delete(k.claims, name) }
	}
	for name, change := range map[string]func(*token){
		"alg none":             func(k *token) { k.method, k.key = jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType },
		"alg none in capitals": func(k *token) { k.header["alg"] = "NONE" },
		"HS256 with the public key PEM as secret":  hs256(rsaPEM()),
		"HS256 with the JWKS as secret":            hs256(rsaJWK()),
		"HS256 with an empty secret":               hs256([]byte{}),
		"RS384 with the right key":                 func(k *token) { k.method = jwt.SigningMethodRS384 },
		"PS256 with the right key":                 func(k *token) { k.method = jwt.SigningMethodPS256 },
		"an RS256 signature by a foreign key":      func(k *token) { k.key = signers()["foreign"] },
		"an ES256 token under the RSA key's id":    func(k *token) { k.method, k.key = jwt.SigningMethodES256, signers()["ec"] },
		"an EdDSA token under the RSA key's id":    func(k *token) { k.method, k.key = jwt.SigningMethodEdDSA, signers()["ed"] },
		"an RS256 token under the EC key's id":     func(k *token) { k.header["kid"] = "ec" },
		"an algorithm in the header not signed by": func(k *token) { k.header["alg"] = "ES256" },
		"an unknown kid":                           func(k *token) { k.header["kid"] = "foreign" },
		"no kid":                                   func(k *token) { delete(k.header, "kid") },
		"a kid that is a number":                   func(k *token) { k.header["kid"] = 7 },
		"typ JWT":                                  func(k *token) { k.header["typ"] = "JWT" },
		"no typ":                                   func(k *token) { k.header["typ"] = nil },
		"a typ that only begins right":             func(k *token) { k.header["typ"] = "at+jwt2" },
		"a crit header":                            func(k *token) { k.header["crit"] = []string{"exp"} },
		"an empty crit header":                     func(k *token) { k.header["crit"] = []string{} },
		"another issuer":                           claim("iss", "https://other.example"),
		"the issuer with a slash":                  claim("iss", issuer+"/"),
		"no issuer":                                without("iss"),
		"another audience":                         claim("aud", "https://other.example"),
		"an audience among others":                 claim("aud", []string{issuer, "https://api.example"}),
		"an empty list of audiences":               claim("aud", []string{}),
		"no audience":                              without("aud"),
		"a token that expired 6 s ago":             claim("exp", now.Add(-6*time.Second).Unix()),
		"no expiry":                                without("exp"),
		"an expiry that is text":                   claim("exp", "tomorrow"),
		"a token that is valid in 6 s":             claim("nbf", now.Add(6*time.Second).Unix()),
		"a token issued 6 s in the future":         claim("iat", now.Add(6*time.Second).Unix()),
		"no iat":                                   without("iat"),
		"a client_id that is not the sub":          claim("client_id", "0190a7c0-0000-4000-8000-00000000000b"),
		"no client_id":                             without("client_id"),
		"no sub":                                   without("sub"),
		"a sub that is no UUID":                    func(k *token) { k.claims["sub"], k.claims["client_id"] = "root", "root" },
		"EdDSA under its name of RFC 9864": func(k *token) {
			k.method, k.key, k.header["kid"], k.header["alg"] = jwt.SigningMethodEdDSA, signers()["ed"], "ed", "Ed25519"
		},
		"a sub in capitals": func(k *token) {
			k.claims["sub"], k.claims["client_id"] = strings.ToUpper(agent), strings.ToUpper(agent)
		},
		"a sub in braces": func(k *token) { k.claims["sub"], k.claims["client_id"] = "{"+agent+"}", "{"+agent+"}" },
		"the nil UUID as sub": func(k *token) {
			k.claims["sub"], k.claims["client_id"] = uuid.Nil.String(), uuid.Nil.String()
		},
		"no jti":                 without("jti"),
		"a jti that is no UUID":  claim("jti", "42"),
		"a jti that is a UUIDv4": claim("jti", agent),
		"a scope that is a list": claim("scope", []string{"agents:read"}),
		"more than 16 KiB":       claim("scope", strings.Repeat("a:b ", 3100)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := goodToken()
			change(&k)
			_, err := verifierAt(now).Verify(t.Context(), k.sign(t))
			requireInvalidToken(t, err)
		})
	}
}

func TestVerifyRefusesWhatWasTamperedWith(t *testing.T) {
	t.Parallel()
	raw := goodToken().sign(t)
	parts := strings.Split(raw, ".")
	encode := base64.RawURLEncoding.EncodeToString
	admin, err := json.Marshal(map[string]any{"sub": agent, "scope": "agents:admin"})
	require.NoError(t, err)
	for name, tampered := range map[string]string{
		"other claims under the signature":    parts[0] + "." + encode(admin) + "." + parts[2],
		"no signature":                        parts[0] + "." + parts[1] + ".",
		"two parts":                           parts[0] + "." + parts[1],
		"four parts":                          raw + ".",
		"an encrypted token's five parts":     raw + ".a.b",
		"padding":                             raw + "=",
		"a line end":                          raw + "\n",
		"a trailing bit in the signature":     raw[:len(raw)-1] + flip(raw[len(raw)-1]),
		"nothing":                             "",
		"dots only":                           "..",
		"a header that is not base64":         "%%." + parts[1] + "." + parts[2],
		"a header that is not JSON":           encode([]byte("{")) + "." + parts[1] + "." + parts[2],
		"a header without alg":                encode([]byte(`{"typ":"at+jwt","kid":"rsa"}`)) + "." + parts[1] + "." + parts[2],
		"a header that is deeply nested JSON": encode([]byte(strings.Repeat("[", 4000))) + "." + parts[1] + "." + parts[2],
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := verifierAt(now).Verify(t.Context(), tampered)
			requireInvalidToken(t, err)
		})
	}
}

// flip changes the lowest of the six bits that a base64 character stands for. In the last character of an RS256 signature, of
// 256 bytes, that bit belongs to no byte, and a lenient decoder ignores it.
func flip(last byte) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return string(alphabet[strings.IndexByte(alphabet, last)^1])
}

func TestVerifySaysWhatIsWrongWithoutRepeatingTheToken(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		change      func(*token)
		description string
	}{
		"expired":          {func(k *token) { k.claims["exp"] = now.Add(-time.Hour).Unix() }, "the token has expired"},
		"not valid yet":    {func(k *token) { k.claims["nbf"] = now.Add(time.Hour).Unix() }, "the token is not valid yet"},
		"issued later":     {func(k *token) { k.claims["iat"] = now.Add(time.Hour).Unix() }, "the token is not valid yet"},
		"another issuer":   {func(k *token) { k.claims["iss"] = "evil\", x=\"" }, "the token is of another issuer or for another audience"},
		"another audience": {func(k *token) { k.claims["aud"] = "evil" }, "the token is of another issuer or for another audience"},
		"a foreign kid":    {func(k *token) { k.header["kid"] = "evil\r\nX-Evil: 1" }, "the token is not a valid access token"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := goodToken()
			row.change(&k)
			raw := k.sign(t)
			_, err := verifierAt(now).Verify(t.Context(), raw)
			requireInvalidToken(t, err)
			require.Contains(t, apperr.From(err).Challenge, `error_description="`+row.description+`"`)
			require.NotContains(t, err.Error(), raw)
			require.NotContains(t, apperr.From(err).Challenge, "evil")
		})
	}
}

// brokenKeys cannot be asked.
type brokenKeys struct{}

func (brokenKeys) Key(context.Context, string) (authn.Key, error) {
	return authn.Key{}, errors.New("connection refused")
}

func TestVerifyDoesNotGuessWhenKeysCannotBeAsked(t *testing.T) {
	t.Parallel()
	v := authn.NewVerifier(authn.VerifierConfig{Issuer: issuer, Audience: issuer, Keys: brokenKeys{}, Clock: time.Now})
	_, err := v.Verify(t.Context(), goodToken().sign(t))
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
}

func TestVerifyRefusesEverythingWithoutAnIssuerOrAudience(t *testing.T) {
	t.Parallel()
	for _, cfg := range []authn.VerifierConfig{
		{Issuer: issuer}, {Audience: issuer}, {AnyAudience: true}, {Issuer: issuer, Audience: issuer, AnyAudience: true},
	} {
		cfg.Keys = keySet()
		cfg.Clock = func() time.Time { return now }
		_, err := authn.NewVerifier(cfg).Verify(t.Context(), goodToken().sign(t))
		require.Equal(t, apperr.InternalServerError, apperr.CodeOf(err))
	}
}

func TestAVerifierOfAnyAudienceAsksForTheRestAllTheSame(t *testing.T) {
	t.Parallel()
	verifier := authn.NewVerifier(authn.VerifierConfig{
		Issuer: issuer, AnyAudience: true, Keys: keySet(), Clock: func() time.Time { return now },
	})
	for name, row := range map[string]struct {
		change func(*token)
		good   bool
	}{
		"the issuer":        {func(*token) {}, true},
		"another audience":  {func(k *token) { k.claims["aud"] = "https://api.example" }, true},
		"several audiences": {func(k *token) { k.claims["aud"] = []string{"https://api.example", "urn:x"} }, true},
		"no audience":       {func(k *token) { delete(k.claims, "aud") }, false},
		"none in the list":  {func(k *token) { k.claims["aud"] = []string{} }, false},
		"a number":          {func(k *token) { k.claims["aud"] = 7 }, false},
		"another issuer":    {func(k *token) { k.claims["iss"] = "https://other.example" }, false},
		"expired":           {func(k *token) { k.claims["exp"] = now.Add(-time.Minute).Unix() }, false},
		"a foreign key":     {func(k *token) { k.key = signers()["foreign"] }, false},
		"another typ":       {func(k *token) { k.header["typ"] = "JWT" }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := goodToken()
			row.change(&k)
			_, err := verifier.Verify(t.Context(), k.sign(t))
			if row.good {
				require.NoError(t, err)
				return
			}
			requireInvalidToken(t, err)
		})
	}
}

func FuzzVerify(f *testing.F) {
	f.Add(goodToken().sign(f))
	f.Add("a.b.c")
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Add("")
	verifier := verifierAt(now)
	good := goodToken().sign(f)
	f.Fuzz(func(t *testing.T, raw string) {
		_, err := verifier.Verify(t.Context(), raw)
		if raw == good {
			require.NoError(t, err)
			return
		}
		// Nobody but the holder of the key can make another one.
		requireInvalidToken(t, err)
	})
}
