package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

// forge builds a token with the claims of a right one, changed by edit.
func forge(t *testing.T, in *installation, method jwt.SigningMethod, key any, edit func(header map[string]any, claims jwt.MapClaims)) string {
	t.Helper()
	now := time.Now()
	jti, err := uuid.NewV7()
	require.NoError(t, err)
	claims := jwt.MapClaims{
		"iss": in.url, "aud": in.url, "sub": in.clientID, "client_id": in.clientID, "iat": now.Unix(), "nbf": now.Unix(),
		"exp": now.Add(time.Hour).Unix(), "jti": jti.String(), "scope": allScopes, "agent_type": "custom",
	}
	token := jwt.NewWithClaims(method, claims)
	token.Header["typ"] = "at+jwt"
	token.Header["kid"] = in.signingKey(t)["kid"]
	edit(token.Header, claims)
	raw, err := token.SignedString(key)
	require.NoError(t, err)
	return raw
}

// signingKey is the first key of the published JWKS.
func (in *installation) signingKey(t *testing.T) map[string]any {
	t.Helper()
	got := in.call(t, http.MethodGet, "/.well-known/jwks.json", "", nil)
	require.Equal(t, http.StatusOK, got.status)
	require.NotEmpty(t, got.header.Get("ETag"))
	require.Equal(t, "public, max-age=300", got.header.Get("Cache-Control"))
	keys := got.object(t)["keys"].([]any)
	require.NotEmpty(t, keys)
	key := keys[0].(map[string]any)
	require.NotContains(t, key, "d", "a private key must never be published")
	return key
}

func publicPEM(t *testing.T, key map[string]any) []byte {
	t.Helper()
	n, err := base64.RawURLEncoding.DecodeString(key["n"].(string))
	require.NoError(t, err)
	e, err := base64.RawURLEncoding.DecodeString(key["e"].(string))
	require.NoError(t, err)
	der, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())})
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// retag replaces one part of a real token's header or claims without signing again.
func retag(t *testing.T, token string, part int, edit func(map[string]any)) string {
	t.Helper()
	parts := strings.Split(token, ".")
	decoded, err := base64.RawURLEncoding.DecodeString(parts[part])
	require.NoError(t, err)
	var content map[string]any
	require.NoError(t, json.Unmarshal(decoded, &content))
	edit(content)
	encoded, err := json.Marshal(content)
	require.NoError(t, err)
	parts[part] = base64.RawURLEncoding.EncodeToString(encoded)
	return strings.Join(parts, ".")
}

func TestForgedAndDamagedTokensAreRefusedByEveryService(t *testing.T) {
	t.Parallel()
	in := install(t, "RATE_LIMIT_PER_MINUTE=0")
	operator := in.operator(t)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	public := publicPEM(t, in.signingKey(t))
	keep := func(map[string]any, jwt.MapClaims) {}
	claim := func(name string, value any) func(map[string]any, jwt.MapClaims) {
		return func(_ map[string]any, claims jwt.MapClaims) { claims[name] = value }
	}
	header := func(name string, value any) func(map[string]any, jwt.MapClaims) {
		return func(head map[string]any, _ jwt.MapClaims) { head[name] = value }
	}
	parts := strings.Split(operator, ".")
	tokens := map[string]string{
		"alg none":                    forge(t, in, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, keep),
		"HS256 with the public key":   forge(t, in, jwt.SigningMethodHS256, public, keep),
		"a foreign RSA key":           forge(t, in, jwt.SigningMethodRS256, rsaKey, keep),
		"a foreign EC key, our kid":   forge(t, in, jwt.SigningMethodES256, ecKey, keep),
		"an unknown kid":              forge(t, in, jwt.SigningMethodRS256, rsaKey, header("kid", "nobody")),
		"no kid":                      forge(t, in, jwt.SigningMethodRS256, rsaKey, func(h map[string]any, _ jwt.MapClaims) { delete(h, "kid") }),
		"an embedded jwk":             forge(t, in, jwt.SigningMethodRS256, rsaKey, header("jwk", map[string]any{"kty": "RSA"})),
		"a wrong issuer":              forge(t, in, jwt.SigningMethodRS256, rsaKey, claim("iss", "https://evil.example")),
		"our signature, more scope":   retag(t, operator, 1, func(c map[string]any) { c["scope"] = "agents:admin extra:all" }),
		"our signature, typ JWT":      retag(t, operator, 0, func(h map[string]any) { h["typ"] = "JWT" }),
		"our signature, alg none":     retag(t, operator, 0, func(h map[string]any) { h["alg"] = "none" }),
		"our signature, longer life":  retag(t, operator, 1, func(c map[string]any) { c["exp"] = time.Now().Add(1000 * time.Hour).Unix() }),
		"no signature":                parts[0] + "." + parts[1] + ".",
		"two parts":                   parts[0] + "." + parts[1],
		"a cut signature":             operator[:len(operator)-4],
		"not a token":                 "nonsense",
		"a very long one":             operator + strings.Repeat("A", 20000),
		"an empty header and payload": "..",
	}
	for name, token := range tokens {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, path := range []string{"/api/v1/agents", "/api/v1/agents/" + in.clientID + "/credentials", "/api/v1/audit"} {
				got := in.call(t, http.MethodGet, path, token, nil)
				require.Equal(t, http.StatusUnauthorized, got.status, "%s: %s", path, got.body)
				require.Equal(t, "UNAUTHORIZED", got.code())
				require.Contains(t, got.header.Get("WWW-Authenticate"), `error="invalid_token"`)
			}
			got := in.form(t, "/api/v1/token/introspect", url.Values{"token": {token}}, bearer(operator))
			require.Equal(t, `{"active":false}`, string(got.body))
			require.Equal(t, http.StatusUnauthorized,
				in.form(t, "/api/v1/token/introspect", url.Values{"token": {operator}}, bearer(token)).status)
		})
	}
}

func TestMalformedAuthorizationHeadersAreChallenged(t *testing.T) {
	t.Parallel()
	in := install(t)
	for name, value := range map[string]string{
		"none": "", "an empty bearer": "Bearer", "another scheme": "Digest x", "Basic at a bearer route": "Basic YTpi", "two tokens": "Bearer a b",
		"bytes outside of the alphabet": "Bearer \xff\xfe",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			req := in.request(t, http.MethodGet, "/api/v1/agents", "", nil)
			if value != "" {
				req.Header.Set("Authorization", value)
			}
			got := in.do(t, req)
			require.Equal(t, http.StatusUnauthorized, got.status, "%s", got.body)
			require.True(t, strings.HasPrefix(got.header.Get("WWW-Authenticate"), "Bearer"), got.header.Get("WWW-Authenticate"))
		})
	}
}

func TestTheInternalPortsDiscloseNothingWithoutTheToken(t *testing.T) {
	t.Parallel()
	in := install(t)
	for service, path := range map[string]string{
		"registry": "/internal/v1/agents?ids=" + in.clientID, "token": "/internal/v1/jwks", "credentials": "/internal/v1/secrets/verify",
	} {
		for _, key := range []string{"", "wrong", in.internalKey + "x"} {
			req, err := http.NewRequest(http.MethodGet, in.internal[service]+path, nil)
			require.NoError(t, err)
			if service == "credentials" {
				req.Method = http.MethodPost
			}
			if key != "" {
				req.Header.Set("Authorization", "Bearer "+key)
			}
			got, err := in.try(req)
			require.NoError(t, err)
			require.Equal(t, http.StatusUnauthorized, got.status, "%s %s: %s", service, path, got.body)
			require.Equal(t, "UNAUTHORIZED", got.code())
		}
		got := in.call(t, http.MethodGet, path, in.operator(t), nil)
		require.Equal(t, http.StatusNotFound, got.status, "the ingress must not route to %s", path)
	}
}

// claimOf reads a string claim of a token without verifying it.
func claimOf(token, name string) string {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return ""
	}
	decoded, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return ""
	}
	var claims map[string]any
	if json.Unmarshal(decoded, &claims) != nil {
		return ""
	}
	value, _ := claims[name].(string)
	return value
}
