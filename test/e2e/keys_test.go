package e2e

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/MicahParks/jwkset"
	"github.com/stretchr/testify/require"

	agentidp "github.com/sentryagent/agentidp/sdk"
)

// publicSet is a set as somebody else's library writes it: one key of each kind, the first with an alg of its own.
func publicSet(t *testing.T) json.RawMessage {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	ed, _, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	set := jwkset.JWKSMarshal{}
	for kid, key := range map[string]any{"rsa": private.Public(), "ec": ec.Public(), "ed": ed} {
		written, err := jwkset.NewJWKFromKey(key, jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{KID: kid, USE: jwkset.UseSig}})
		require.NoError(t, err)
		set.Keys = append(set.Keys, written.Marshal())
	}
	raw, err := json.Marshal(set)
	require.NoError(t, err)
	return raw
}

// An agent's keys, from registration to removal, and what of it stands in the trail.
func TestAnAgentsKeysAreKeptReadReplacedAndRemoved(t *testing.T) {
	t.Parallel()
	in := install(t, "RATE_LIMIT_PER_MINUTE=0")
	operator := in.operator(t)
	agent := in.register(t, operator, "signer@example.com", nil)
	path := "/api/v1/agents/" + agent + "/keys"
	require.Equal(t, "AGENT_KEYS_NOT_FOUND", in.call(t, http.MethodGet, path, operator, nil).code())

	set := publicSet(t)
	put := in.call(t, http.MethodPut, path, operator, `{"jwks":`+string(set)+`}`)
	require.Equal(t, http.StatusOK, put.status, "%s", put.body)
	require.JSONEq(t, `{"jwks":`+string(set)+`}`, string(put.body), "what has nothing superfluous is kept as it is")
	require.Equal(t, `"2"`, put.header.Get("ETag"))
	require.Equal(t, string(put.body), string(in.call(t, http.MethodGet, path, operator, nil).body))

	const uri = `{"jwksUri":"https://agent.example.com/jwks.json"}`
	require.Equal(t, http.StatusOK, in.call(t, http.MethodPut, path, operator, uri).status)
	require.JSONEq(t, uri, string(in.call(t, http.MethodGet, path, operator, nil).body))
	require.Equal(t, http.StatusNoContent, in.call(t, http.MethodDelete, path, operator, nil).status)
	require.Equal(t, "AGENT_KEYS_NOT_FOUND", in.call(t, http.MethodDelete, path, operator, nil).code())

	var events []map[string]any
	eventually(t, func() bool {
		events = in.trail(t, operator, "action=agent.keys_updated&agentId="+agent)
		return len(events) >= 3
	}, "changes of keys must stand in the trail")
	require.Len(t, events, 3)
	require.ElementsMatch(t, []any{"rsa", "ec", "ed"}, events[0]["metadata"].(map[string]any)["kids"])
	require.Equal(t, "https://agent.example.com/jwks.json", events[1]["metadata"].(map[string]any)["jwksUri"])
	require.Equal(t, true, events[2]["metadata"].(map[string]any)["removed"])
	for _, event := range events {
		require.Equal(t, in.clientID, event["actorId"])
		require.Equal(t, "success", event["outcome"])
	}

	require.Equal(t, http.StatusOK, in.call(t, http.MethodPut, path, operator, uri).status)
	require.Equal(t, http.StatusNoContent, in.call(t, http.MethodDelete, "/api/v1/agents/"+agent, operator, nil).status)
	require.Equal(t, "AGENT_ALREADY_DECOMMISSIONED", in.call(t, http.MethodPut, path, operator, uri).code())
	require.Equal(t, "AGENT_ALREADY_DECOMMISSIONED", in.call(t, http.MethodDelete, path, operator, nil).code())
}

func TestKeysThatMustNotBeRegisteredAreRefused(t *testing.T) {
	t.Parallel()
	in := install(t, "RATE_LIMIT_PER_MINUTE=0")
	operator := in.operator(t)
	agent := in.register(t, operator, "signer@example.com", nil)
	path := "/api/v1/agents/" + agent + "/keys"
	// RFC 8037 appendix A.1, whose secret is known to everybody, and the symmetric key of RFC 7517 appendix A.3.
	const secret, symmetric = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A", "GawgguFyGrWKav7AX4VKUg"
	const public = `"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"`
	for body, field := range map[string]string{
		`{"jwks":{"keys":[{` + public + `,"d":"` + secret + `"}]}}`:                 "jwks.keys[0].d",
		`{"jwks":{"keys":[{"kty":"oct","k":"` + symmetric + `"}]}}`:                 "jwks.keys[0].k",
		`{"jwks":{"keys":[{` + public + `,"use":"enc"}]}}`:                          "jwks.keys[0].use",
		`{"jwks":{"keys":[{` + public + `,"alg":"HS256"}]}}`:                        "jwks.keys[0].alg",
		`{"jwks":{"keys":[{` + public + `,"kid":"a"},{` + public + `,"kid":"a"}]}}`: "jwks.keys[1].kid",
		`{"jwks":{"keys":[]}}`: "jwks.keys",
		`{"jwks":{"keys":[{` + public + `}]},"jwksUri":"https://agent.example.com"}`: "jwksUri",
		`{"jwksUri":"http://agent.example.com/"}`:                                    "jwksUri",
		`{"jwksUri":"https://127.0.0.1/"}`:                                           "jwksUri",
		`{"jwksUri":"https://[fe80::1]/"}`:                                           "jwksUri",
		`{"jwksUri":"https://metadata.google.internal/"}`:                            "jwksUri",
		`{}`: "jwks",
	} {
		got := in.call(t, http.MethodPut, path, operator, body)
		require.Equal(t, http.StatusBadRequest, got.status, "%s: %s", body, got.body)
		require.Equal(t, "VALIDATION_ERROR", got.code())
		require.Contains(t, got.fields(t), field, "%s: %s", body, got.body)
		require.NotContains(t, string(got.body), secret)
		require.NotContains(t, string(got.body), symmetric)
	}
	require.Equal(t, "AGENT_KEYS_NOT_FOUND", in.call(t, http.MethodGet, path, operator, nil).code())
	require.NotContains(t, in.output.String(), secret, "nor is it in the log")
	require.NotContains(t, in.output.String(), symmetric)
}

func TestKeysAreChangedByWhoMayChangeTheAgent(t *testing.T) {
	t.Parallel()
	in := install(t, "RATE_LIMIT_PER_MINUTE=0")
	operator := in.operator(t)
	tokenOf := func(email, owner string) (id, token string) {
		id = in.register(t, operator, email, map[string]any{"owner": owner, "allowedScopes": []string{"agents:read", "agents:write"}})
		_, secret := in.credential(t, operator, id)
		return id, in.token(t, id, secret, "agents:read agents:write")
	}
	agent, itself := tokenOf("signer@example.com", "talent")
	_, colleague := tokenOf("colleague@example.com", "talent")
	_, stranger := tokenOf("stranger@example.com", "payments")
	path := "/api/v1/agents/" + agent + "/keys"
	const uri = `{"jwksUri":"https://agent.example.com/jwks.json"}`
	for _, token := range []string{itself, colleague, operator} {
		require.Equal(t, http.StatusOK, in.call(t, http.MethodPut, path, token, uri).status)
		require.Equal(t, http.StatusNoContent, in.call(t, http.MethodDelete, path, token, nil).status)
	}
	require.Equal(t, http.StatusOK, in.call(t, http.MethodPut, path, itself, uri).status)
	require.Equal(t, http.StatusForbidden, in.call(t, http.MethodPut, path, stranger, uri).status)
	require.Equal(t, http.StatusForbidden, in.call(t, http.MethodDelete, path, stranger, nil).status)
	require.Equal(t, http.StatusOK, in.call(t, http.MethodGet, path, stranger, nil).status)
	require.Equal(t, http.StatusUnauthorized, in.call(t, http.MethodGet, path, "", nil).status)

	patched := in.call(t, http.MethodPatch, "/api/v1/agents/"+in.clientID, operator, map[string]any{"owner": "talent"})
	require.Equal(t, http.StatusOK, patched.status, "%s", patched.body)
	taken := in.call(t, http.MethodPut, "/api/v1/agents/"+in.clientID+"/keys", colleague, uri)
	require.Equal(t, http.StatusForbidden, taken.status, "nobody becomes an operator by setting its keys")
}

func TestResourcesAndKeysThroughTheSDK(t *testing.T) {
	t.Parallel()
	in := install(t, "RATE_LIMIT_PER_MINUTE=0")
	client, err := agentidp.New(agentidp.Config{
		BaseURL: in.url, ClientID: in.clientID, ClientSecret: agentidp.Secret(in.clientSecret), Scopes: strings.Fields(allScopes),
	})
	require.NoError(t, err)
	ctx := t.Context()
	resources := []string{"https://resumes.example.com/", "urn:example:calendar"}
	agent, err := client.Agents.Register(ctx, agentidp.Registration{
		Email: "sdk@example.com", Type: agentidp.Custom, Version: "1.0.0", Capabilities: []string{"resume:read"}, Owner: "talent",
		DeploymentEnv: agentidp.Development, AllowedResources: resources,
	})
	require.NoError(t, err)
	require.Equal(t, resources, agent.AllowedResources)
	agent, err = client.Agents.Update(ctx, agent.ID, agentidp.AgentUpdate{AllowedResources: []string{}, IfMatch: agent.ETag})
	require.NoError(t, err)
	require.Equal(t, []string{}, agent.AllowedResources)

	set := publicSet(t)
	keys, err := client.Agents.SetKeys(ctx, agent.ID, agentidp.AgentKeys{JWKS: set})
	require.NoError(t, err)
	require.JSONEq(t, string(set), string(keys.JWKS))
	again, err := client.Agents.Keys(ctx, agent.ID)
	require.NoError(t, err)
	require.Equal(t, keys, again)
	var refused *agentidp.Error
	_, err = client.Agents.SetKeys(ctx, agent.ID, agentidp.AgentKeys{JWKS: set, IfMatch: agent.ETag})
	require.ErrorAs(t, err, &refused)
	require.Equal(t, agentidp.CodePreconditionFailed, refused.Code)
	require.ErrorAs(t, client.Agents.RemoveKeys(ctx, agent.ID, agent.ETag), &refused)
	require.Equal(t, agentidp.CodePreconditionFailed, refused.Code)
	require.NoError(t, client.Agents.RemoveKeys(ctx, agent.ID, keys.ETag))
	_, err = client.Agents.Keys(ctx, agent.ID)
	require.ErrorAs(t, err, &refused)
	require.Equal(t, agentidp.CodeAgentKeysNotFound, refused.Code)
}

func TestResourcesOfAnAgentAreAbsoluteURIs(t *testing.T) {
	t.Parallel()
	in := install(t, "RATE_LIMIT_PER_MINUTE=0")
	operator := in.operator(t)
	agent := in.register(t, operator, "resources@example.com", nil)
	path := "/api/v1/agents/" + agent
	require.Equal(t, []any{}, in.call(t, http.MethodGet, path, operator, nil).object(t)["allowedResources"])
	for _, wrong := range []any{
		"https://api.example.com/", []any{1}, []string{"/v1"}, []string{"api.example.com"}, []string{"https://api.example.com/#top"},
		[]string{"https://api.example.com/ "}, []string{"https://u:p@api.example.com/"}, []string{"urn:a:b", "urn:a:b"},
		strings.Split(strings.Repeat("urn:a:b ", 17), " ")[:17],
	} {
		got := in.call(t, http.MethodPatch, path, operator, map[string]any{"allowedResources": wrong})
		require.Equal(t, http.StatusBadRequest, got.status, "%v: %s", wrong, got.body)
		require.True(t, strings.HasPrefix(got.fields(t)[0], "allowedResources"), "%s", got.body)
	}
	want := []any{"https://api.example.com/v1?tenant=7", "urn:example:calendar"}
	got := in.call(t, http.MethodPatch, path, operator, map[string]any{"allowedResources": want})
	require.Equal(t, http.StatusOK, got.status, "%s", got.body)
	require.Equal(t, want, got.object(t)["allowedResources"])
	eventually(t, func() bool {
		events := in.trail(t, operator, "action=agent.updated&agentId="+agent)
		if len(events) != 1 {
			return false
		}
		require.Equal(t, []any{"allowedResources"}, events[0]["metadata"].(map[string]any)["changes"])
		return true
	}, "the change must stand in the trail")
}
