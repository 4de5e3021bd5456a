package e2e

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	agentidp "github.com/sentryagent/agentidp/sdk"
)

// One agent's life, from registration to decommissioning, seen at every service and then read back from the trail.
func TestOneAgentTakesTheWholePath(t *testing.T) {
	t.Parallel()
	in := install(t)
	operator := in.operator(t)

	registered := in.call(t, http.MethodPost, "/api/v1/agents", operator, agentBody("screener@example.com", nil))
	require.Equal(t, http.StatusCreated, registered.status, "%s", registered.body)
	agent := registered.object(t)["agentId"].(string)
	require.Equal(t, "/api/v1/agents/"+agent, registered.header.Get("Location"))
	require.NotEmpty(t, registered.header.Get("ETag"))
	require.Equal(t, "active", registered.object(t)["status"])
	require.Equal(t, in.clientID, registered.object(t)["registeredBy"])
	require.Equal(t, []any{"agents:read", "agents:write", "tokens:read", "audit:read"}, registered.object(t)["allowedScopes"])

	created := in.call(t, http.MethodPost, "/api/v1/agents/"+agent+"/credentials", operator, map[string]any{})
	require.Equal(t, http.StatusCreated, created.status, "%s", created.body)
	require.Equal(t, "no-store", created.header.Get("Cache-Control"))
	secret := created.object(t)["clientSecret"].(string)
	credential := created.object(t)["credentialId"].(string)
	require.Regexp(t, `^sk_live_[0-9a-f]{64}$`, secret)

	byForm := in.form(t, "/api/v1/token", url.Values{"grant_type": {"client_credentials"}, "client_id": {agent},
		"client_secret": {secret}, "scope": {"agents:read resume:read"}})
	require.Equal(t, http.StatusOK, byForm.status, "%s", byForm.body)
	require.Equal(t, "no-store", byForm.header.Get("Cache-Control"))
	require.Equal(t, "no-cache", byForm.header.Get("Pragma"))
	require.Equal(t, "Bearer", byForm.object(t)["token_type"])
	require.EqualValues(t, 3600, byForm.object(t)["expires_in"])
	require.Equal(t, "agents:read resume:read", byForm.object(t)["scope"])
	byBasic := in.form(t, "/api/v1/token", url.Values{"grant_type": {"client_credentials"}, "scope": {"agents:read resume:read"}},
		basic(agent, secret))
	require.Equal(t, http.StatusOK, byBasic.status, "%s", byBasic.body)
	token := byForm.object(t)["access_token"].(string)

	read := in.call(t, http.MethodGet, "/api/v1/agents/"+agent, token, nil)
	require.Equal(t, http.StatusOK, read.status)
	require.Equal(t, registered.header.Get("ETag"), read.header.Get("ETag"))
	require.NotEmpty(t, read.header.Get("X-RateLimit-Limit"))

	foreign := in.call(t, http.MethodGet, "/api/v1/agents/"+in.clientID+"/credentials", token, nil)
	require.Equal(t, http.StatusForbidden, foreign.status)
	require.Equal(t, "FORBIDDEN", foreign.code())

	introspected := in.form(t, "/api/v1/token/introspect", url.Values{"token": {token}}, bearer(operator))
	require.Equal(t, http.StatusOK, introspected.status)
	require.Equal(t, true, introspected.object(t)["active"])
	require.Equal(t, agent, introspected.object(t)["sub"])

	in.patch(t, operator, agent, `{"status":"suspended"}`)
	in.requireDead(t, operator, agent, token)
	issued := 3 // two above, one below, and any that a replica still gave out in the second that it has to learn of it
	eventually(t, func() bool {
		refused := in.form(t, "/api/v1/token", url.Values{"grant_type": {"client_credentials"}, "client_id": {agent}, "client_secret": {secret}})
		if refused.status == http.StatusOK {
			issued++
		}
		return refused.status == http.StatusForbidden && refused.oauthError() == "unauthorized_client"
	}, "a suspended agent gets no token")

	in.patch(t, operator, agent, `{"status":"active"}`)
	require.Equal(t, http.StatusUnauthorized, in.call(t, http.MethodGet, "/api/v1/agents/"+agent, token, nil).status,
		"reactivation must not give old tokens back")
	fresh := in.token(t, agent, secret, "agents:read") // active credentials work again, at once
	require.Equal(t, http.StatusOK, in.call(t, http.MethodGet, "/api/v1/agents/"+agent, fresh, nil).status)

	gone := in.call(t, http.MethodDelete, "/api/v1/agents/"+agent, operator, nil)
	require.Equal(t, http.StatusNoContent, gone.status, "%s", gone.body)
	in.requireDead(t, operator, agent, fresh)
	require.Equal(t, "AGENT_ALREADY_DECOMMISSIONED", in.call(t, http.MethodDelete, "/api/v1/agents/"+agent, operator, nil).code())
	require.Equal(t, "decommissioned", in.call(t, http.MethodGet, "/api/v1/agents/"+agent, operator, nil).object(t)["status"])
	eventually(t, func() bool {
		listed := in.call(t, http.MethodGet, "/api/v1/agents/"+agent+"/credentials?status=revoked", operator, nil)
		return listed.object(t)["total"].(float64) == 1
	}, "decommissioning must revoke the credentials")

	in.requireStory(t, operator, story{agent: agent, credential: credential, issued: issued})
	eventually(t, func() bool {
		refused := in.form(t, "/api/v1/token", url.Values{"grant_type": {"client_credentials"}, "client_id": {agent}, "client_secret": {secret}})
		return refused.status == http.StatusUnauthorized && refused.oauthError() == "invalid_client"
	}, "a secret that was revoked with its agent is a revoked one")
}

// story is what was done with one agent.
type story struct {
	agent, credential string
	issued            int // tokens that it was given
}

// requireStory holds the agent's trail against what was done: one event per action, none missing, none twice.
func (in *installation) requireStory(t *testing.T, operator string, told story) {
	t.Helper()
	want := []string{"agent.created", "credential.generated", "agent.suspended", "auth.failed", "agent.reactivated",
		"agent.decommissioned", "credential.revoked"}
	want = append(want, slices.Repeat([]string{"token.issued"}, told.issued)...)
	var events []map[string]any
	eventually(t, func() bool {
		events = withoutIntrospections(in.trail(t, operator, "agentId="+told.agent))
		return len(events) >= len(want)
	}, "the story must stand in the trail")
	require.ElementsMatch(t, want, actions(events))
	seen := map[string]bool{}
	for _, event := range events {
		id := event["eventId"].(string)
		require.False(t, seen[id], "event %s stands twice in the trail", id)
		seen[id] = true
		single := in.call(t, http.MethodGet, "/api/v1/audit/"+id, operator, nil)
		require.Equal(t, http.StatusOK, single.status)
		require.Equal(t, event, single.object(t))
		require.NotContains(t, fmt.Sprint(event), "sk_live_")
		switch event["action"] {
		case "credential.generated", "credential.revoked":
			require.Equal(t, in.clientID, event["actorId"])
			require.Equal(t, told.credential, event["metadata"].(map[string]any)["credentialId"])
		case "auth.failed":
			require.Equal(t, "failure", event["outcome"])
			require.Equal(t, "agent_suspended", event["metadata"].(map[string]any)["reason"])
		}
	}
}

// The tests introspect as often as they need to, so introspections are counted apart.
func withoutIntrospections(events []map[string]any) []map[string]any {
	var kept []map[string]any
	for _, event := range events {
		if event["action"] != "token.introspected" {
			kept = append(kept, event)
		}
	}
	return kept
}

func (in *installation) patch(t *testing.T, token, agent, body string) {
	t.Helper()
	got := in.call(t, http.MethodPatch, "/api/v1/agents/"+agent, token, body)
	require.Equal(t, http.StatusOK, got.status, "%s", got.body)
}

// requireDead demands that within a second every service refuses the token and introspection calls it inactive.
func (in *installation) requireDead(t *testing.T, operator, agent, token string) {
	t.Helper()
	for _, path := range []string{"/api/v1/agents/" + agent, "/api/v1/agents/" + agent + "/credentials", "/api/v1/audit"} {
		eventually(t, func() bool {
			got := in.call(t, http.MethodGet, path, token, nil)
			return got.status == http.StatusUnauthorized && got.code() == "UNAUTHORIZED" && got.header.Get("WWW-Authenticate") != ""
		}, path+" must refuse the token")
	}
	eventually(t, func() bool {
		got := in.form(t, "/api/v1/token/introspect", url.Values{"token": {token}}, bearer(operator))
		return string(got.body) == `{"active":false}`
	}, "introspection must call the token inactive, and say nothing else")
}

func TestARevokedTokenIsRefusedEverywhereAndStaysRevokedAfterARestart(t *testing.T) {
	t.Parallel()
	in := install(t)
	operator := in.operator(t)
	agent := in.register(t, operator, "revoked@example.com", nil)
	_, secret := in.credential(t, operator, agent)
	own, others := in.token(t, agent, secret, "agents:read audit:read"), in.token(t, agent, secret, "agents:read")

	got := in.form(t, "/api/v1/token/revoke", url.Values{"token": {operator}}, bearer(own))
	require.Equal(t, http.StatusForbidden, got.status, "another agent's token: %s", got.body)
	require.Equal(t, "FORBIDDEN", got.code())
	require.Equal(t, http.StatusOK, in.form(t, "/api/v1/token/revoke", url.Values{"token": {"no token"}}, bearer(own)).status)
	require.Equal(t, http.StatusOK, in.form(t, "/api/v1/token/revoke", url.Values{"token": {own}}, bearer(own)).status)
	in.requireDead(t, operator, agent, own)
	require.Equal(t, http.StatusOK, in.form(t, "/api/v1/token/revoke", url.Values{"token": {others}}, basic(agent, secret)).status)
	in.requireDead(t, operator, agent, others)

	in.stop(t)
	again := start(t, in.dir, in.port)
	again.requireDead(t, operator, agent, own)
	require.Equal(t, http.StatusOK, again.call(t, http.MethodGet, "/api/v1/agents/"+agent, operator, nil).status,
		"keys, agents and tokens outlive a restart")
}

func TestTheSDKReplacesATokenThatWasRevoked(t *testing.T) {
	t.Parallel()
	in := install(t, "RATE_LIMIT_PER_MINUTE=0")
	client, err := agentidp.New(agentidp.Config{
		BaseURL: in.url, ClientID: in.clientID, ClientSecret: agentidp.Secret(in.clientSecret), Scopes: []string{"tokens:read"},
	})
	require.NoError(t, err)
	for name, call := range map[string]func(token string) error{
		"introspection": func(token string) error { _, err := client.Introspect(t.Context(), token); return err },
		"revocation":    func(token string) error { return client.Revoke(t.Context(), token) },
	} {
		token, err := client.Token(t.Context())
		require.NoError(t, err)
		require.NoError(t, client.Revoke(t.Context(), token.AccessToken))
		eventually(t, func() bool {
			require.NoError(t, call("x"), name)
			fresh, err := client.Token(t.Context())
			require.NoError(t, err)
			return fresh.AccessToken != token.AccessToken
		}, name+" must be refused, and then asked for with another token")
	}
}
