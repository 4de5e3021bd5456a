package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"net/http"
	"net/url"
	"testing"

	"github.com/golang-jwt/jwt/v5"
	"github.com/lestrrat-go/jwx/v3/jwk"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

const ownAPI = "https://api.example.com"

// registerKey registers a new key for the agent, and answers how it authenticates from then on.
func (in *installation) registerKey(t *testing.T, token, agent string) (assert func() url.Values) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	public, err := jwk.Import(private.Public())
	require.NoError(t, err)
	set := jwk.NewSet()
	require.NoError(t, set.AddKey(public))
	got := in.call(t, http.MethodPut, "/api/v1/agents/"+agent+"/keys", token, map[string]any{"jwks": set})
	require.Equal(t, http.StatusOK, got.status, "%s", got.body)
	return func() url.Values {
		fields := url.Values{}
		setAssertion(t, fields, in.url, agent, jwt.SigningMethodES256, private)
		return fields
	}
}

func TestAnAgentWithoutASecretGetsATokenForAnAPIOfItsOwner(t *testing.T) {
	t.Parallel()
	in := install(t)
	operator := in.operator(t)
	agent := in.register(t, operator, "signer@example.com", map[string]any{"allowedResources": []string{ownAPI, "urn:example:files"}})
	assert := in.registerKey(t, operator, agent)

	ask := func(more url.Values) (*oauth2.Token, error) {
		config := clientcredentials.Config{TokenURL: in.url + "/api/v1/token", AuthStyle: oauth2.AuthStyleInParams, EndpointParams: assert()}
		for name, values := range more {
			config.EndpointParams[name] = values
		}
		return config.Token(context.Background())
	}
	own, err := ask(nil)
	require.NoError(t, err)
	foreign, err := ask(url.Values{"resource": {ownAPI, "urn:example:files"}, "scope": {"resume:read"}})
	require.NoError(t, err)
	single, err := ask(url.Values{"resource": {ownAPI}})
	require.NoError(t, err)

	for want, token := range map[any]*oauth2.Token{in.url: own, ownAPI: single, "both": foreign} {
		if want == "both" {
			want = []any{ownAPI, "urn:example:files"}
		}
		fields := assert()
		fields.Set("token", token.AccessToken)
		got := in.form(t, "/api/v1/token/introspect", fields)
		require.Equal(t, true, got.object(t)["active"], "%s", got.body)
		require.Equal(t, want, got.object(t)["aud"])
	}
	path := "/api/v1/agents/" + agent
	require.Equal(t, http.StatusOK, in.call(t, http.MethodGet, path, own.AccessToken, nil).status)
	require.Equal(t, http.StatusUnauthorized, in.call(t, http.MethodGet, path, single.AccessToken, nil).status, "it is for another API")

	var refused *oauth2.RetrieveError
	_, err = ask(url.Values{"resource": {"https://elsewhere.example.com"}})
	require.ErrorAs(t, err, &refused)
	require.Equal(t, "invalid_target", refused.ErrorCode)

	once := assert()
	once.Set("grant_type", "client_credentials")
	require.Equal(t, http.StatusOK, in.form(t, "/api/v1/token", once).status)
	again := in.form(t, "/api/v1/token", once)
	require.Equal(t, http.StatusUnauthorized, again.status)
	wrong := in.form(t, "/api/v1/token", url.Values{"grant_type": {"client_credentials"}, "client_id": {agent}, "client_secret": {"sk_live_wrong"}})
	require.Equal(t, string(wrong.body), string(again.body))

	got := in.call(t, http.MethodDelete, path+"/keys", operator, nil)
	require.Less(t, got.status, http.StatusMultipleChoices, "%s", got.body)
	eventually(t, func() bool { _, err := ask(nil); return err != nil }, "a key that was removed still works")
}
