package token_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/registryapi"
)

// The registry allows 64 capabilities of 64 characters and 16 resources of 256.
func TestTheLongestTokenIsAsGoodAsAnyOther(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	var capabilities, resources []string
	for i := range 64 {
		capabilities = append(capabilities, fmt.Sprintf("resource:%02d%s", i, strings.Repeat("x", 53)))
	}
	for i := range 16 {
		resources = append(resources, fmt.Sprintf("https://api.example.com/?%02d%s", i, strings.Repeat("&", 229)))
	}
	id := w.peers.register(func(agent *registryapi.Agent) {
		agent.Capabilities, agent.AllowedResources = capabilities, resources
	})
	got := w.post(t, "/api/v1/token", "", url.Values{
		"grant_type": {"client_credentials"}, "client_id": {id.String()}, "client_secret": {goodSecret},
		"scope": {strings.Join(capabilities, " ")}, "resource": resources,
	})
	require.Equal(t, http.StatusOK, got.status, got.body)
	access, _ := got.field(t, "access_token").(string)
	require.Greater(t, len(access), 11<<10)

	own := w.issue(t, w.peers.register(), "tokens:read")
	live := w.introspect(t, own, access)
	require.Equal(t, true, live.field(t, "active"), live.body)
	require.Len(t, live.field(t, "aud"), len(resources))
	require.Equal(t, http.StatusOK, w.post(t, "/api/v1/token/revoke", "", url.Values{
		"client_id": {id.String()}, "client_secret": {goodSecret}, "token": {access},
	}).status)
	require.JSONEq(t, `{"active":false}`, w.introspect(t, own, access).body)

	// As a bearer token it passes through the headers too.
	here := w.post(t, "/api/v1/token", "", url.Values{
		"grant_type": {"client_credentials"}, "client_id": {id.String()}, "client_secret": {goodSecret},
		"scope": {strings.Join(append(capabilities, "tokens:read"), " ")},
	})
	bearer, _ := here.field(t, "access_token").(string)
	require.Equal(t, http.StatusOK, w.introspect(t, bearer, bearer).status)
}
