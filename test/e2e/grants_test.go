package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"net/http"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/lestrrat-go/jwx/v3/jwk"
	"github.com/stretchr/testify/require"
)

func TestTokensAreForTheResourcesThatRFC8707Names(t *testing.T) {
	t.Parallel()
	const shop, mail = "https://shop.example/v1", "urn:example:mail"
	in := install(t)
	operator := in.operator(t)
	agent := in.party(t, operator, "shopper@example.com", map[string]any{"allowedResources": []string{shop, mail}})
	ask := func(resources ...string) answer {
		return in.form(t, tokenPath, url.Values{"grant_type": {"client_credentials"}, "client_id": {agent.id},
			"client_secret": {agent.secret}, "scope": {"agents:read"}, "resource": resources})
	}
	for name, row := range map[string]struct {
		resources []string
		aud       any // nil if it is refused
	}{
		"§2: one resource is the audience":                    {[]string{shop}, shop},
		"§2: several are all of them":                         {[]string{mail, shop}, []any{mail, shop}},
		"§2: none is the issuer":                              {nil, in.url},
		"RFC 6749 §3.2: an empty one is none":                 {[]string{""}, in.url},
		"§2: one that the client may not name":                {[]string{shop, "https://bank.example"}, nil},
		"§2: a relative reference":                            {[]string{"/v1"}, nil},
		"§2: a fragment":                                      {[]string{shop + "#a"}, nil},
		"§2: resources are compared octet by octet":           {[]string{"https://SHOP.example/v1"}, nil},
		"RFC 9068 §3: the default is not asked for by naming": {[]string{in.url}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := ask(row.resources...)
			if row.aud == nil {
				require.Equal(t, http.StatusBadRequest, got.status)
				require.Equal(t, "invalid_target", got.oauthError())
				return
			}
			require.Equal(t, http.StatusOK, got.status, "%s", got.body)
			token := got.object(t)["access_token"].(string)
			require.Equal(t, row.aud, partOf(t, token, 1)["aud"])
			introspected := in.form(t, introspectPath, url.Values{"token": {token}}, basic(agent.id, agent.secret)).object(t)
			require.Equal(t, true, introspected["active"])
			require.Equal(t, row.aud, introspected["aud"], "RFC 7662 §2.2")
			here := in.call(t, http.MethodGet, "/api/v1/agents/"+agent.id, token, nil)
			require.Equal(t, row.aud == in.url, here.status == http.StatusOK, "RFC 9068 §4: a resource takes tokens for itself only")
		})
	}
}

func TestClientAssertionsAreHeldAgainstRFC7523(t *testing.T) {
	t.Parallel()
	in := install(t, "AUTH_FAILURES_PER_MINUTE=0")
	operator := in.operator(t)
	agent := in.party(t, operator, "signer@example.com", nil)
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	public, err := jwk.Import(private.Public())
	require.NoError(t, err)
	set := jwk.NewSet()
	require.NoError(t, set.AddKey(public))
	registered := in.call(t, http.MethodPut, "/api/v1/agents/"+agent.id+"/keys", operator, map[string]any{"jwks": set})
	require.Less(t, registered.status, http.StatusMultipleChoices, "%s", registered.body)

	const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
	used := uuid.NewString()
	for _, row := range []struct {
		name   string
		header map[string]any
		claims map[string]any // beside those of a good one; nil takes one away
		fields url.Values     // likewise
		err    string
	}{
		{name: "§3: a good one", claims: map[string]any{"jti": used}},
		{name: "§3 (7): a jti that was used", claims: map[string]any{"jti": used}, err: "invalid_client"},
		{name: "RFC 7521 §4.2: the client may name itself as well", fields: url.Values{"client_id": {agent.id}}},
		{name: "RFC 7521 §4.2: but no other", fields: url.Values{"client_id": {in.clientID}}, err: "invalid_client"},
		{name: "§3 (3), revised: the token endpoint is no audience", claims: map[string]any{"aud": in.url + tokenPath}, err: "invalid_client"},
		{name: "§3 (3), revised: nor is the issuer beside another", claims: map[string]any{"aud": []string{in.url, "https://other.example"}}, err: "invalid_client"},
		{name: "§3 (1): the issuer of it is the client", claims: map[string]any{"iss": in.clientID}, err: "invalid_client"},
		{name: "§3 (2): so is its subject", claims: map[string]any{"iss": in.clientID, "sub": in.clientID}, err: "invalid_client"},
		{name: "§3 (4): it expires", claims: map[string]any{"exp": nil}, err: "invalid_client"},
		{name: "§3 (4): within five minutes", claims: map[string]any{"exp": time.Now().Add(time.Hour).Unix()}, err: "invalid_client"},
		{name: "§3 (4): and has not yet", claims: map[string]any{"iat": time.Now().Add(-2 * time.Minute).Unix(), "exp": time.Now().Add(-time.Minute).Unix()}, err: "invalid_client"},
		{name: "RFC 8725 §3.11: an access token is none", header: map[string]any{"typ": "at+jwt"}, err: "invalid_client"},
		{name: "RFC 7515 §4.1.11: nothing critical is understood", header: map[string]any{"crit": []string{"b64"}, "b64": false}, err: "invalid_client"},
		{name: "RFC 8725 §3.1: the algorithm is one of the key", header: map[string]any{"alg": "RS256"}, err: "invalid_client"},
		{name: "RFC 8725 §3.1: and not none", header: map[string]any{"alg": "none"}, err: "invalid_client"},
		{name: "RFC 8725 §3.10: the key is not the one it brings along", header: map[string]any{"kid": "mine", "jwk": set}, err: "invalid_client"},
		{name: "RFC 7521 §4.2.1: another type of assertion", fields: url.Values{"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:saml2-bearer"}}, err: "invalid_client"},
		{name: "RFC 6749 §3.2: no type of assertion", fields: url.Values{"client_assertion_type": {""}}, err: "invalid_request"},
		{name: "RFC 6749 §2.3: a secret beside it", fields: url.Values{"client_id": {agent.id}, "client_secret": {agent.secret}}, err: "invalid_request"},
	} {
		now := time.Now()
		claims := jwt.MapClaims{"iss": agent.id, "sub": agent.id, "aud": in.url, "jti": uuid.NewString(), "iat": now.Unix(), "exp": now.Add(time.Minute).Unix()}
		for name, value := range row.claims {
			claims[name] = value
			if value == nil {
				delete(claims, name)
			}
		}
		unsigned := jwt.NewWithClaims(jwt.SigningMethodES256, claims)
		for name, value := range row.header {
			unsigned.Header[name] = value
		}
		signed, err := unsigned.SignedString(private)
		require.NoError(t, err)
		fields := url.Values{"grant_type": {"client_credentials"}, "client_assertion_type": {assertionType}, "client_assertion": {signed}}
		for name, values := range row.fields {
			fields[name] = slices.Clone(values)
		}
		got := in.form(t, tokenPath, fields)
		require.Equal(t, row.err, got.oauthError(), "%s: %s", row.name, got.body)
		require.Equal(t, map[string]int{"": 200, "invalid_request": 400, "invalid_client": 401}[row.err], got.status, row.name)
	}
}
