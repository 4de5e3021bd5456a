package e2e

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/lestrrat-go/jwx/v3/jwk"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2/clientcredentials"
)

// metadata is what a client may believe after reading the document of RFC 8414 §2.
type metadata struct {
	Issuer                   string   `json:"issuer"`
	AuthorizationEndpoint    string   `json:"authorization_endpoint"`
	TokenEndpoint            string   `json:"token_endpoint"`
	RevocationEndpoint       string   `json:"revocation_endpoint"`
	IntrospectionEndpoint    string   `json:"introspection_endpoint"`
	JWKSURI                  string   `json:"jwks_uri"`
	Scopes                   []string `json:"scopes_supported"`
	ResponseTypes            []string `json:"response_types_supported"`
	Grants                   []string `json:"grant_types_supported"`
	TokenMethods             []string `json:"token_endpoint_auth_methods_supported"`
	TokenAlgorithms          []string `json:"token_endpoint_auth_signing_alg_values_supported"`
	RevocationMethods        []string `json:"revocation_endpoint_auth_methods_supported"`
	RevocationAlgorithms     []string `json:"revocation_endpoint_auth_signing_alg_values_supported"`
	IntrospectionMethods     []string `json:"introspection_endpoint_auth_methods_supported"`
	IntrospectionAlgorithms  []string `json:"introspection_endpoint_auth_signing_alg_values_supported"`
	IDTokenSigningAlgorithms []string `json:"id_token_signing_alg_values_supported"`
}

func (in *installation) metadata(t *testing.T, path string) metadata {
	t.Helper()
	got := in.call(t, http.MethodGet, path, "", nil)
	require.Equal(t, http.StatusOK, got.status)
	require.Equal(t, "application/json", got.header.Get("Content-Type"), "RFC 8414 §3.2")
	var document metadata
	got.decode(t, &document)
	for name, value := range got.object(t) {
		if list, ok := value.([]any); ok && name != "response_types_supported" {
			require.NotEmpty(t, list, "RFC 8414 §3.2: what has no elements is left out: %s", name)
		}
	}
	return document
}

// asks is a client that proves who it is, in one of the ways that metadata can name.
type asks struct {
	method string
	prove  func(fields url.Values, req *http.Request)
}

// pathOf is the path of an advertised address, which must be of the issuer.
func (in *installation) pathOf(t *testing.T, address string) string {
	t.Helper()
	path, ours := strings.CutPrefix(address, in.url)
	require.True(t, ours, "%s is elsewhere", address)
	return path
}

// ask posts fields with a client's proof.
func (in *installation) ask(t *testing.T, path string, fields url.Values, prove func(url.Values, *http.Request)) answer {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, in.url+path, http.NoBody)
	require.NoError(t, err)
	prove(fields, req)
	body := fields.Encode()
	req.Body, req.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return in.do(t, req)
}

func TestEverythingThatIsAdvertisedWorksAndNothingElseDoes(t *testing.T) {
	t.Parallel()
	in := install(t, "RATE_LIMIT_PER_MINUTE=0", "AUTH_FAILURES_PER_MINUTE=0")
	operator := in.operator(t)
	agent := in.party(t, operator, "able@example.com", nil)
	document := in.metadata(t, "/.well-known/oauth-authorization-server")
	openID := in.metadata(t, "/.well-known/openid-configuration")
	require.Equal(t, in.url, document.Issuer, "RFC 8414 §3.3: the issuer, byte for byte")
	algorithms := openID.IDTokenSigningAlgorithms
	openID.IDTokenSigningAlgorithms = nil
	require.Equal(t, document, openID, "both say the same")
	ways := append(in.ways(t, operator, agent), in.keyWays(t, operator, agent, document)...)

	t.Run("grants and scopes", func(t *testing.T) {
		t.Parallel()
		require.Equal(t, []string{"client_credentials"}, document.Grants)
		for _, scope := range document.Scopes {
			require.Equal(t, http.StatusOK, in.form(t, in.pathOf(t, document.TokenEndpoint), url.Values{"grant_type": {"client_credentials"},
				"client_id": {in.clientID}, "client_secret": {in.clientSecret}, "scope": {scope}}).status, scope)
		}
		for _, grant := range []string{"authorization_code", "implicit", "password", "refresh_token", "CLIENT_CREDENTIALS", "client_credentials ",
			"urn:ietf:params:oauth:grant-type:jwt-bearer", "urn:ietf:params:oauth:grant-type:saml2-bearer",
			"urn:ietf:params:oauth:grant-type:device_code", "urn:ietf:params:oauth:grant-type:token-exchange"} {
			got := in.form(t, in.pathOf(t, document.TokenEndpoint), url.Values{"grant_type": {grant}, "client_id": {agent.id}, "client_secret": {agent.secret}})
			require.Equal(t, http.StatusBadRequest, got.status, grant)
			require.Equal(t, "unsupported_grant_type", got.oauthError(), grant)
		}
		for _, scope := range []string{"openid", "offline_access", "profile", "agents:delete"} {
			got := in.form(t, in.pathOf(t, document.TokenEndpoint), url.Values{"grant_type": {"client_credentials"},
				"client_id": {in.clientID}, "client_secret": {in.clientSecret}, "scope": {scope}})
			require.Equal(t, "invalid_scope", got.oauthError(), scope)
		}
	})
	t.Run("authentication at each endpoint", func(t *testing.T) {
		t.Parallel()
		for endpoint, row := range map[string]struct {
			address    string
			advertised []string
			fields     url.Values
		}{
			"token":         {document.TokenEndpoint, document.TokenMethods, url.Values{"grant_type": {"client_credentials"}}},
			"introspection": {document.IntrospectionEndpoint, document.IntrospectionMethods, url.Values{"token": {operator}}},
			"revocation":    {document.RevocationEndpoint, document.RevocationMethods, url.Values{"token": {"nobody's"}}},
		} {
			tried := map[string]bool{}
			for _, way := range ways {
				got := in.ask(t, in.pathOf(t, row.address), maps.Clone(row.fields), way.prove)
				tried[way.method] = true
				switch advertised := slices.Contains(row.advertised, way.method); {
				case advertised:
					require.Equal(t, http.StatusOK, got.status, "%s by %s: %s", endpoint, way.method, got.body)
				case endpoint == "revocation" && way.method == "Bearer": // RFC 8414 §2 has no word for it there
					require.Equal(t, http.StatusOK, got.status)
				default:
					require.Contains(t, []int{http.StatusBadRequest, http.StatusUnauthorized}, got.status, "%s by %s: %s", endpoint, way.method, got.body)
					require.Contains(t, []string{"invalid_client", "invalid_request", "invalid_token"}, got.oauthError())
				}
			}
			for _, method := range row.advertised {
				require.True(t, tried[method], "nobody tried %s at %s", method, endpoint)
			}
		}
		for _, endpoint := range []struct{ methods, algorithms []string }{
			{document.TokenMethods, document.TokenAlgorithms}, {document.RevocationMethods, document.RevocationAlgorithms},
			{document.IntrospectionMethods, document.IntrospectionAlgorithms},
		} {
			require.Equal(t, slices.Contains(endpoint.methods, "private_key_jwt"), len(endpoint.algorithms) > 0, "RFC 8414 §2: with assertions, and only then")
			require.NotContains(t, endpoint.algorithms, "none")
		}
	})
	t.Run("keys and algorithms", func(t *testing.T) {
		t.Parallel()
		got := in.call(t, http.MethodGet, in.pathOf(t, document.JWKSURI), "", nil)
		require.Equal(t, http.StatusOK, got.status)
		for _, key := range got.object(t)["keys"].([]any) {
			require.Contains(t, algorithms, key.(map[string]any)["alg"])
		}
		require.Contains(t, algorithms, algorithmOf(operator))
		require.Contains(t, algorithms, "RS256", "OpenID Connect Discovery §3")
		require.NotContains(t, algorithms, "none")
	})
	t.Run("no response type, and no other method", func(t *testing.T) {
		t.Parallel()
		require.Empty(t, document.ResponseTypes)
		for _, kind := range []string{"", "code", "token", "id_token", "code id_token", "none"} {
			got := in.call(t, http.MethodGet, in.pathOf(t, document.AuthorizationEndpoint)+"?redirect_uri=https://client.example&client_id="+agent.id+
				"&response_type="+url.QueryEscape(kind), "", nil)
			require.Equal(t, http.StatusBadRequest, got.status)
			require.Equal(t, "unsupported_response_type", got.oauthError())
			require.Empty(t, got.header.Get("Location"), "nobody is sent anywhere (RFC 9700 §4.11)")
		}
		for _, endpoint := range []string{document.TokenEndpoint, document.IntrospectionEndpoint, document.RevocationEndpoint} {
			for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions} {
				got := in.call(t, method, in.pathOf(t, endpoint), "", nil)
				require.Equal(t, http.StatusMethodNotAllowed, got.status, "%s %s (RFC 6749 §3.2)", method, endpoint)
				require.Equal(t, http.MethodPost, got.header.Get("Allow"))
			}
		}
	})
}

// ways are the ways to prove who one is, advertised or not, each with what it needs to work.
func (in *installation) ways(t *testing.T, operator string, agent party) []asks {
	t.Helper()
	header := func(value string) func(url.Values, *http.Request) {
		return func(_ url.Values, req *http.Request) { req.Header.Set("Authorization", value) }
	}
	return []asks{
		{"client_secret_basic", func(_ url.Values, req *http.Request) { basic(agent.id, agent.secret)(req) }},
		{"client_secret_post", func(fields url.Values, _ *http.Request) {
			fields.Set("client_id", agent.id)
			fields.Set("client_secret", agent.secret)
		}},
		{"Bearer", header("Bearer " + operator)},
		{"none", func(fields url.Values, _ *http.Request) { fields.Set("client_id", agent.id) }},
		{"client_secret_jwt", func(fields url.Values, _ *http.Request) {
			setAssertion(t, fields, in.url, agent.id, jwt.SigningMethodHS256, []byte(agent.secret))
		}},
		{"digest", header(`Digest username="` + agent.id + `", response="` + agent.secret + `"`)},
		{"DPoP", header("DPoP " + operator)},
		{"a bearer token in the form", func(fields url.Values, _ *http.Request) { fields.Set("access_token", operator) }},
		{"a bearer token in the query", func(_ url.Values, req *http.Request) { req.URL.RawQuery = "access_token=" + operator }},
		{"a secret in the query", func(_ url.Values, req *http.Request) {
			req.URL.RawQuery = url.Values{"client_id": {agent.id}, "client_secret": {agent.secret}}.Encode()
		}},
	}
}

func TestAnIssuerWithAPathIsFoundWhereTheRFCsSay(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	issuer := "http://127.0.0.1:" + strconv.Itoa(port) + "/idp/v2"
	in := installAt(t, port, "ISSUER="+issuer)
	operator := in.operator(t)
	agent := in.party(t, operator, "deep@example.com", nil)
	for _, path := range []string{"/.well-known/oauth-authorization-server/idp/v2", "/.well-known/openid-configuration/idp/v2",
		"/idp/v2/.well-known/openid-configuration"} {
		document := in.metadata(t, path)
		require.Equal(t, issuer, document.Issuer)
		require.Equal(t, issuer+"/api/v1/token", document.TokenEndpoint)
	}
	ctx := context.Background()
	provider, err := oidc.NewProvider(ctx, issuer)
	require.NoError(t, err)
	config := clientcredentials.Config{ClientID: agent.id, ClientSecret: agent.secret, TokenURL: provider.Endpoint().TokenURL}
	token, err := config.Token(ctx)
	require.NoError(t, err)
	_, err = provider.Verifier(&oidc.Config{ClientID: issuer}).Verify(ctx, token.AccessToken)
	require.NoError(t, err)
	requireIntrospection(t, issuer, agent, in.token(t, agent.id, agent.secret, "resume:read"))
	require.Equal(t, http.StatusOK, in.call(t, http.MethodGet, "/api/v1/agents/"+agent.id, token.AccessToken, nil).status)
}

// setAssertion sets a client assertion that is good but for, perhaps, its algorithm and key (RFC 7523 §2.2, §3).
func setAssertion(t *testing.T, fields url.Values, issuer, client string, method jwt.SigningMethod, key any) {
	t.Helper()
	now := time.Now()
	signed, err := jwt.NewWithClaims(method, jwt.RegisteredClaims{
		Issuer: client, Subject: client, Audience: jwt.ClaimStrings{issuer}, ID: uuid.NewString(),
		IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(time.Minute)),
	}).SignedString(key)
	require.NoError(t, err)
	fields.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
	fields.Set("client_assertion", signed)
}

// ed25519Method is EdDSA under the name of RFC 9864, of which the library has no method.
type ed25519Method struct{ *jwt.SigningMethodEd25519 }

func (ed25519Method) Alg() string { return "Ed25519" }

// keyWays registers a key for every algorithm that metadata names for private_key_jwt, and answers a way for each.
func (in *installation) keyWays(t *testing.T, operator string, agent party, document metadata) []asks {
	t.Helper()
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	known := map[string]struct {
		method jwt.SigningMethod
		key    crypto.Signer
	}{
		"RS256": {jwt.SigningMethodRS256, rsaKey}, "PS256": {jwt.SigningMethodPS256, rsaKey},
		"ES256": {jwt.SigningMethodES256, ecKey}, "EdDSA": {jwt.SigningMethodEdDSA, edKey},
		"Ed25519": {ed25519Method{jwt.SigningMethodEdDSA}, edKey},
	}
	var ways []asks
	for _, algorithm := range document.TokenAlgorithms {
		with, testable := known[algorithm]
		require.True(t, testable, "nobody can try %s", algorithm)
		ways = append(ways, asks{"private_key_jwt", func(fields url.Values, _ *http.Request) {
			setAssertion(t, fields, in.url, agent.id, with.method, with.key)
		}})
	}
	if len(ways) == 0 {
		return nil
	}
	set := jwk.NewSet()
	for _, public := range []any{rsaKey.Public(), ecKey.Public(), edKey.Public()} {
		key, err := jwk.Import(public)
		require.NoError(t, err)
		require.NoError(t, set.AddKey(key))
	}
	got := in.call(t, http.MethodPut, "/api/v1/agents/"+agent.id+"/keys", operator, map[string]any{"jwks": set})
	require.Less(t, got.status, http.StatusMultipleChoices, "%s", got.body)
	return ways
}
