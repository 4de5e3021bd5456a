package e2e

import (
	"net/http"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"
)

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
