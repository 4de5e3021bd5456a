package e2e

import (
	"context"
	"net/http"
	"net/url"
	"testing"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

func TestOtherPeoplesClientsWorkAsTheyAre(t *testing.T) {
	t.Parallel()
	in := install(t)
	operator := in.operator(t)
	agent := in.register(t, operator, "stranger@example.com", nil)
	_, secret := in.credential(t, operator, agent)

	for name, style := range map[string]oauth2.AuthStyle{"in the form": oauth2.AuthStyleInParams, "in the header": oauth2.AuthStyleInHeader} {
		t.Run("x/oauth2 with the secret "+name, func(t *testing.T) {
			t.Parallel()
			config := clientcredentials.Config{ClientID: agent, ClientSecret: secret, TokenURL: in.url + "/api/v1/token",
				Scopes: []string{"agents:read", "resume:read"}, AuthStyle: style}
			token, err := config.Token(context.Background())
			require.NoError(t, err)
			require.Equal(t, "Bearer", token.Type())
			resp, err := config.Client(context.Background()).Get(in.url + "/api/v1/agents/" + agent)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, http.StatusOK, resp.StatusCode)
		})
	}
	t.Run("go-oidc verifies through discovery", func(t *testing.T) {
		t.Parallel()
		provider, err := oidc.NewProvider(context.Background(), in.url)
		require.NoError(t, err)
		raw := in.token(t, agent, secret, "resume:read")
		token, err := provider.Verifier(&oidc.Config{ClientID: in.url}).Verify(context.Background(), raw)
		require.NoError(t, err)
		var claims struct {
			ClientID      string `json:"client_id"`
			Scope         string `json:"scope"`
			AgentType     string `json:"agent_type"`
			Owner         string `json:"owner"`
			DeploymentEnv string `json:"deployment_env"`
		}
		require.NoError(t, token.Claims(&claims))
		require.Equal(t, agent, token.Subject)
		require.Equal(t, agent, claims.ClientID)
		require.Equal(t, "resume:read", claims.Scope)
		require.Equal(t, "screener", claims.AgentType)
		require.Equal(t, "talent", claims.Owner)
		require.Equal(t, "production", claims.DeploymentEnv)
	})
}

func TestTheMetadataListsWhatWorksAndNothingElse(t *testing.T) {
	t.Parallel()
	in := install(t)
	for _, path := range []string{"/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"} {
		got := in.call(t, http.MethodGet, path, "", nil)
		require.Equal(t, http.StatusOK, got.status)
		document := got.object(t)
		require.Equal(t, in.url, document["issuer"])
		require.Equal(t, []any{}, document["response_types_supported"])
		require.Equal(t, []any{"client_credentials"}, document["grant_types_supported"])
		require.ElementsMatch(t, []any{"client_secret_basic", "client_secret_post"}, document["token_endpoint_auth_methods_supported"])
		for _, endpoint := range []string{"token_endpoint", "introspection_endpoint", "revocation_endpoint"} {
			address, err := url.Parse(document[endpoint].(string))
			require.NoError(t, err)
			require.Equal(t, http.StatusMethodNotAllowed, in.call(t, http.MethodGet, address.Path, "", nil).status, endpoint)
		}
		address, err := url.Parse(document["authorization_endpoint"].(string))
		require.NoError(t, err)
		refused := in.call(t, http.MethodGet, address.Path, "", nil)
		require.Equal(t, http.StatusBadRequest, refused.status)
		require.Equal(t, "unsupported_response_type", refused.oauthError())
	}
}
