package httpapi_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/authz"
	"github.com/sentryagent/agentidp/pkg/jwk"
	"github.com/sentryagent/agentidp/pkg/peer"
	"github.com/sentryagent/agentidp/pkg/registryapi"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/services/registry/internal/agent"
)

const bootstrapPath = "/internal/v1/bootstrap"

func TestTheOperatorIsCreatedOnce(t *testing.T) {
	t.Parallel()
	b := setupWith(t, options{maxAgents: 1})
	b.register(t, operator, nil) // the limit is reached, which does not refuse the operator

	first := b.callInternal(t, http.MethodPost, bootstrapPath, `{"email":"operator@example.com","owner":"platform"}`).
		requireStatus(http.StatusCreated)
	body := first.json()
	require.Equal(t, true, body["created"])
	require.Nil(t, body["registeredBy"])
	require.Equal(t, "custom", body["agentType"])
	require.Equal(t, "1.0.0", body["version"])
	require.Equal(t, "production", body["deploymentEnv"])
	require.Equal(t, []any{"operator:*"}, body["capabilities"])
	require.Equal(t, []any{"agents:read", "agents:write", "tokens:read", "audit:read", "agents:admin"}, body["allowedScopes"])
	require.EqualValues(t, 1, body["revision"])
	require.Equal(t, 2, b.count(t, "SELECT living FROM registry.fleet"))
	require.Equal(t, 2, b.count(t, "SELECT count(*) FROM registry.outbox"), "one event each")

	second := b.callInternal(t, http.MethodPost, bootstrapPath,
		`{"email":"another@example.com","owner":"someone","deploymentEnv":"staging"}`).requireStatus(http.StatusOK)
	body["created"] = false
	require.Equal(t, body, second.json())
	require.Equal(t, 2, b.count(t, "SELECT count(*) FROM registry.outbox"))
	b.call(t, operator, http.MethodPost, agentsPath, registration(nil)).requireError(apperr.FreeTierLimitExceeded)
}

func TestParallelBootstrapsMakeOneOperator(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var mu sync.Mutex
	created, ids := 0, map[string]bool{}
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			got := b.callInternal(t, http.MethodPost, bootstrapPath, `{"email":"operator@example.com","owner":"platform"}`)
			mu.Lock()
			defer mu.Unlock()
			if assert.Contains(t, []int{http.StatusOK, http.StatusCreated}, got.Code, got.Body.String()) {
				ids[got.id()] = true
			}
			if got.Code == http.StatusCreated {
				created++
			}
		})
	}
	group.Wait()
	require.Len(t, ids, 1)
	require.Equal(t, 1, created)
}

func TestAnOperatorDoesNotTakeAnAddressOver(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.register(t, operator, fields{"email": "taken@example.com"})
	b.callInternal(t, http.MethodPost, bootstrapPath, `{"email":"Taken@example.com","owner":"platform"}`).
		requireError(apperr.AgentAlreadyExists)
}

func TestALostOperatorIsReplacedOnDemand(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const another = `{"email":"second@example.com","owner":"platform","newOperator":true}`
	first := b.callInternal(t, http.MethodPost, bootstrapPath, `{"email":"first@example.com","owner":"platform"}`).requireStatus(http.StatusCreated).id()
	require.Equal(t, first, b.callInternal(t, http.MethodPost, bootstrapPath, another).requireStatus(http.StatusOK).id())

	b.call(t, operator, http.MethodPatch, agentsPath+"/"+first, `{"status":"suspended"}`).requireStatus(http.StatusOK)
	b.callInternal(t, http.MethodPost, bootstrapPath, strings.Replace(another, "second", "First", 1)).requireError(apperr.AgentAlreadyExists)
	require.Equal(t, "suspended", b.call(t, operator, http.MethodGet, agentsPath+"/"+first, "").json()["status"])
	second := b.callInternal(t, http.MethodPost, bootstrapPath, another).requireStatus(http.StatusCreated).id()
	require.NotEqual(t, first, second)
	require.Equal(t, "decommissioned", b.call(t, operator, http.MethodGet, agentsPath+"/"+first, "").json()["status"])
	require.Equal(t, 1, b.count(t, "SELECT count(*) FROM registry.outbox WHERE subject = 'audit.registry.agent.decommissioned'"))
	require.Equal(t, 1, b.count(t, "SELECT living FROM registry.fleet"))
	require.Equal(t, second, b.callInternal(t, http.MethodPost, bootstrapPath, another).requireStatus(http.StatusOK).id(), "once")
}

func TestABootstrapThatIsNone(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.callInternal(t, http.MethodPost, bootstrapPath, `{}`).requireFields("email", "owner")
	b.callInternal(t, http.MethodPost, bootstrapPath,
		`{"email":"x","owner":7,"deploymentEnv":"moon","allowedScopes":[]}`).
		requireFields("email", "owner", "deploymentEnv", "allowedScopes")
	b.callInternal(t, http.MethodPost, bootstrapPath, "").requireFields("body")
	b.callInternal(t, http.MethodPost, bootstrapPath, `{}`, "Content-Type", "text/plain").requireError(apperr.UnsupportedMediaType)
	b.callInternal(t, http.MethodPost, bootstrapPath, strings.Repeat(" ", 2<<20)).requireError(apperr.PayloadTooLarge)
	require.Equal(t, 0, b.count(t, "SELECT count(*) FROM registry.agents"))
}

func TestTheInternalAPINeedsItsToken(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, authorization := range []string{"", "Bearer wrong", "Bearer " + operator.token(t), internalToken} {
		for _, target := range []string{"/internal/v1/agents?ids=" + uuid.NewString(), "/internal/v1/agents", "/internal/v1/cutoffs"} {
			b.send(t, b.server.InternalHandler(), http.MethodGet, target, "", "Authorization", authorization).
				requireError(apperr.Unauthorized)
		}
		b.send(t, b.server.InternalHandler(), http.MethodPost, bootstrapPath, `{}`, "Authorization", authorization).
			requireError(apperr.Unauthorized)
	}
}

func TestOtherServicesReadAnAgentWithTheSharedClient(t *testing.T) {
	t.Parallel()
	b := setup(t)
	server := httptest.NewServer(b.server.InternalHandler())
	t.Cleanup(server.Close)
	client := registryapi.NewClient(peer.New(peer.Config{
		BaseURL: server.URL, Token: internalToken, Name: "registry", Telemetry: telemetry.Discard("token"),
	}))

	registered := b.register(t, operator, fields{"allowedScopes": []string{}})
	id := uuid.MustParse(registered.id())
	found, err := client.Agent(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, id, found.AgentID)
	require.Equal(t, int64(1), found.Revision)
	require.True(t, found.TokensValidAfter.IsZero(), "its status never changed")
	require.Equal(t, registryapi.StatusActive, found.Status)
	require.Equal(t, operator.id, *found.RegisteredBy)
	require.NotNil(t, found.AllowedScopes)
	require.NotNil(t, found.AllowedResources)
	require.Nil(t, found.Keys)

	b.call(t, operator, http.MethodPatch, agentsPath+"/"+id.String(), `{"status":"suspended"}`).requireStatus(http.StatusOK)
	suspended, err := client.Agent(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, registryapi.StatusSuspended, suspended.Status)
	require.Equal(t, int64(2), suspended.Revision)
	require.False(t, suspended.TokensValidAfter.Before(b.clock.Now().Truncate(time.Millisecond)))
	require.Zero(t, suspended.TokensValidAfter.Nanosecond()%int(time.Millisecond))

	b.call(t, operator, http.MethodPatch, agentsPath+"/"+id.String(), `{"allowedResources":["https://api.example.com/"]}`).
		requireStatus(http.StatusOK)
	b.call(t, operator, http.MethodPut, agentsPath+"/"+id.String()+"/keys", `{"jwksUri":"https://agent.example.com/jwks.json"}`).
		requireStatus(http.StatusOK)
	changed, err := client.Agent(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, []string{"https://api.example.com/"}, changed.AllowedResources)
	require.Equal(t, &registryapi.AgentKeys{JWKSURI: "https://agent.example.com/jwks.json"}, changed.Keys)
	require.Equal(t, int64(4), changed.Revision)
	answered := b.call(t, operator, http.MethodPut, agentsPath+"/"+id.String()+"/keys", keySet()).requireStatus(http.StatusOK)
	changed, err = client.Agent(t.Context(), id)
	require.NoError(t, err)
	require.Empty(t, changed.Keys.JWKSURI)
	require.JSONEq(t, answered.Body.String(), `{"jwks":`+string(changed.Keys.JWKS)+`}`)

	_, err = client.Agent(t.Context(), uuid.New())
	require.Equal(t, apperr.AgentNotFound, apperr.CodeOf(err))

	made, created, err := client.Bootstrap(t.Context(), registryapi.BootstrapRequest{Email: "o@example.com", Owner: "platform"})
	require.NoError(t, err)
	require.True(t, created)
	again, created, err := client.Bootstrap(t.Context(), registryapi.BootstrapRequest{Email: "o@example.com", Owner: "platform"})
	require.NoError(t, err)
	require.False(t, created)
	require.Equal(t, made, again)

	another := uuid.MustParse(b.register(t, operator, nil).id())
	some, err := client.Agents(t.Context(), []uuid.UUID{uuid.New(), another, id, another})
	require.NoError(t, err)
	require.Len(t, some, 2, "those that there are, once")
	require.Equal(t, changed, some[id])
	require.Nil(t, some[another].Keys)

	b.callInternal(t, http.MethodGet, lookup(id), "").requireStatus(http.StatusOK)
	most := slices.Repeat([]uuid.UUID{id}, registryapi.MaxAgents)
	b.callInternal(t, http.MethodGet, lookup(most...), "").requireStatus(http.StatusOK)
	b.callInternal(t, http.MethodGet, lookup(append(most, id)...), "").requireFields("ids")
	for _, query := range []string{"", "?ids=", "?ids=NOT-A-UUID", "?ids=" + id.String() + ",", "?ids=" + strings.Repeat("x", 10_000)} {
		b.callInternal(t, http.MethodGet, "/internal/v1/agents"+query, "").requireFields("ids")
	}
}

func lookup(ids ...uuid.UUID) string {
	texts := make([]string, len(ids))
	for i, id := range ids {
		texts[i] = id.String()
	}
	return "/internal/v1/agents?ids=" + strings.Join(texts, ",")
}

// heaviest is a registration and a set of keys that answer with as many bytes as any can: with texts of what JSON escapes.
func heaviest() (registered, keys string) {
	fill := func(prefix, with string, length int) string { return prefix + strings.Repeat(with, length-len(prefix)) }
	distinct := func(n int, text func(i int) string) []string {
		texts := make([]string, n)
		for i := range texts {
			texts[i] = text(i)
		}
		return texts
	}
	modulus := make([]byte, jwk.MaxRSABits/8)
	modulus[0], modulus[len(modulus)-1] = 0x80, 1
	set := make([]fields, jwk.MaxSetKeys)
	for i := range set {
		set[i] = fields{
			"kty": "RSA", "use": "sig", "alg": jwk.RS256, "kid": fill(fmt.Sprintf("%02d", i), "<", jwk.MaxKeyID),
			"n": base64.RawURLEncoding.EncodeToString(modulus), "e": "f____w",
		}
	}
	domain := "." + strings.Join(slices.Repeat([]string{strings.Repeat("a", 60)}, 3), ".")
	return registration(fields{
		"email":        strings.Repeat("&", 64) + "@" + strings.Repeat("a", agent.MaxEmail-65-len(domain)) + domain,
		"agentType":    slices.MaxFunc(agent.Types(), func(a, b string) int { return len(a) - len(b) }),
		"version":      fill("1.0.0-", "a", agent.MaxVersion),
		"owner":        fill("", "<", agent.MaxOwner),
		"capabilities": distinct(agent.MaxCapabilities, func(i int) string { return fill(fmt.Sprintf("a%d:", i), "a", agent.MaxCapability) }),
		"allowedResources": distinct(agent.MaxResources, func(i int) string {
			return fill(fmt.Sprintf("a%d:", i), "&", agent.MaxResource)
		}),
		"allowedScopes": authz.SystemScopes(),
	}), encode(fields{"jwks": fields{"keys": set}})
}

func TestAllThatAreAskedForAtOnceFitInAnAnswer(t *testing.T) {
	t.Parallel()
	b := setup(t)
	registered, keys := heaviest()
	id := b.call(t, operator, http.MethodPost, agentsPath, registered).requireStatus(http.StatusCreated).id()
	b.call(t, operator, http.MethodPut, agentsPath+"/"+id+"/keys", keys).requireStatus(http.StatusOK)
	weight := b.callInternal(t, http.MethodGet, lookup(uuid.MustParse(id)), "").requireStatus(http.StatusOK).Body.Len()
	require.Greater(t, weight, jwk.MaxSetKeys*(jwk.MaxRSABits/6+6*(jwk.MaxKeyID-2))+6*agent.MaxResources*(agent.MaxResource-4), "it is no light one")
	require.Less(t, 2*registryapi.MaxAgents*weight, peer.MaxResponse, "with as much room again, for what an agent may have one day")
}

func TestOtherServicesReadWhoseTokensAreRefused(t *testing.T) {
	t.Parallel()
	b := setup(t)
	server := httptest.NewServer(b.server.InternalHandler())
	t.Cleanup(server.Close)
	client := registryapi.NewClient(peer.New(peer.Config{
		BaseURL: server.URL, Token: internalToken, Name: "registry", Telemetry: telemetry.Discard("token"),
	}))
	b.register(t, operator, nil) // its status never changed
	id := uuid.MustParse(b.register(t, operator, nil).id())
	before := b.clock.Now()
	b.call(t, operator, http.MethodPatch, agentsPath+"/"+id.String(), `{"status":"suspended"}`).requireStatus(http.StatusOK)
	suspended, err := client.Agent(t.Context(), id)
	require.NoError(t, err)

	want := []registryapi.Cutoff{{
		AgentID: id, Status: registryapi.StatusSuspended, Revision: 2, TokensValidAfter: suspended.TokensValidAfter,
	}}
	got, err := client.Cutoffs(t.Context(), before.Add(-time.Second), uuid.Nil)
	require.NoError(t, err)
	require.Equal(t, want, got)
	got, err = client.Cutoffs(t.Context(), suspended.TokensValidAfter, uuid.Nil)
	require.NoError(t, err)
	require.Empty(t, got)
	got, err = client.Cutoffs(t.Context(), before.Add(-time.Second), id)
	require.NoError(t, err)
	require.Empty(t, got)

	const path = "/internal/v1/cutoffs"
	b.callInternal(t, http.MethodGet, path, "").requireStatus(http.StatusOK)
	b.callInternal(t, http.MethodGet, path+"?since=x&after=y&x=z", "").requireFields("since", "after", "x")
}

func TestWithoutItsDatabaseTheServiceIsUnavailable(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.db.Close()
	path := agentsPath + "/" + uuid.NewString()
	for _, got := range []answer{
		b.call(t, operator, http.MethodGet, agentsPath, ""),
		b.call(t, operator, http.MethodGet, path, ""),
		b.call(t, operator, http.MethodPost, agentsPath, registration(nil)),
		b.call(t, operator, http.MethodPatch, path, `{"version":"1.0.0"}`),
		b.call(t, operator, http.MethodDelete, path, ""),
		b.call(t, operator, http.MethodGet, path+"/keys", ""),
		b.call(t, operator, http.MethodPut, path+"/keys", `{"jwksUri":"https://agent.example.com/jwks.json"}`),
		b.call(t, operator, http.MethodDelete, path+"/keys", ""),
		b.callInternal(t, http.MethodGet, lookup(uuid.New()), ""),
		b.callInternal(t, http.MethodGet, "/internal/v1/cutoffs", ""),
		b.callInternal(t, http.MethodPost, bootstrapPath, `{"email":"o@example.com","owner":"x"}`),
	} {
		got.requireError(apperr.ServiceUnavailable)
		require.NotEmpty(t, got.Header().Get("Retry-After"))
		require.NotContains(t, got.Body.String(), "postgres")
	}
}

func TestAnAgentOfTheContractHasExactlyItsFields(t *testing.T) {
	t.Parallel()
	b := setup(t)
	got := b.register(t, operator, nil)
	decoder := json.NewDecoder(bytes.NewReader(got.Body.Bytes()))
	var order []string
	for depth := 0; decoder.More(); {
		token, err := decoder.Token()
		require.NoError(t, err)
		switch value := token.(type) {
		case json.Delim:
			if value == '{' {
				depth++
			}
		case string:
			order = append(order, value)
			var skipped json.RawMessage
			require.NoError(t, decoder.Decode(&skipped))
		}
		require.Equal(t, 1, depth)
	}
	require.Equal(t, []string{
		"agentId", "email", "agentType", "version", "capabilities", "owner", "deploymentEnv", "allowedScopes",
		"allowedResources", "status", "registeredBy", "createdAt", "updatedAt",
	}, order)
}

func TestThePolicyIsAskedWithTheResource(t *testing.T) {
	t.Parallel()
	authorizer, err := policy()
	require.NoError(t, err)
	// What the handlers rely on: an agent that is not there protects nothing, one that is there does.
	exists := false
	decision, err := authorizer.Decide(context.Background(), authz.Input{
		Method: http.MethodPatch, Path: agentsPath + "/" + uuid.NewString(), Scopes: []string{"agents:write"},
		Subject: uuid.NewString(), Authentication: authz.AuthenticationBearer,
		Resource: &authz.Resource{AgentID: uuid.NewString(), Exists: &exists},
	})
	require.NoError(t, err)
	require.True(t, decision.Allow)
}
