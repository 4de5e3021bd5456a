package credentials_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/credentialsapi"
	"github.com/sentryagent/agentidp/pkg/lifecycle"
	"github.com/sentryagent/agentidp/pkg/registryapi"
	"github.com/sentryagent/agentidp/pkg/testkit"
	"github.com/sentryagent/agentidp/services/credentials"
)

// agent registers an active agent with the fake registry.
func (f *fixture) agent() uuid.UUID {
	id := uuid.New()
	f.registry.set(id, registryapi.StatusActive)
	return id
}

func (f *fixture) url(agent uuid.UUID, rest ...string) string {
	return f.Public + "/api/v1/agents/" + agent.String() + "/credentials" + strings.Join(rest, "")
}

func (f *fixture) verify(t *testing.T, agent uuid.UUID, secret any) credentialsapi.VerifyResponse {
	t.Helper()
	text, ok := secret.(string)
	require.True(t, ok, "no secret")
	res, err := f.api.Verify(t.Context(), credentialsapi.VerifyRequest{ClientID: agent, Secret: config.Secret(text)})
	require.NoError(t, err)
	return res
}

func TestACredentialFromItsCreationToItsRevocation(t *testing.T) {
	f := setup(t)
	agent := f.agent()
	token := f.token(t, agent, "agents:write")

	created := f.do(t, http.MethodPost, f.url(agent), token, "")
	require.Equal(t, http.StatusCreated, created.status, created.body)
	require.Equal(t, "no-store", created.header.Get("Cache-Control"))
	require.NotEmpty(t, created.header.Get("X-RateLimit-Remaining"))
	id, first := created.body["credentialId"].(string), created.body["clientSecret"]
	require.True(t, f.verify(t, agent, first).Valid)
	require.False(t, f.verify(t, f.agent(), first).Valid, "another agent's secret")

	used := time.Now().Add(-time.Minute).UTC().Truncate(time.Microsecond)
	require.NoError(t, f.api.RecordUse(t.Context(), []credentialsapi.Use{{CredentialID: uuid.MustParse(id), UsedAt: used}}))
	listed := f.do(t, http.MethodGet, f.url(agent), token, "")
	require.Equal(t, http.StatusOK, listed.status)
	item := listed.body["data"].([]any)[0].(map[string]any)
	require.Equal(t, used.Format(time.RFC3339Nano), item["lastUsedAt"])
	require.NotContains(t, item, "clientSecret")

	rotated := f.do(t, http.MethodPost, f.url(agent, "/", id, "/rotate"), token, `{"gracePeriodSeconds": 600}`)
	require.Equal(t, http.StatusOK, rotated.status, rotated.body)
	second := rotated.body["clientSecret"]
	require.Equal(t, id, rotated.body["credentialId"])
	old := f.verify(t, agent, first)
	require.True(t, old.Valid && old.Previous)
	require.NotNil(t, old.ValidUntil)
	require.True(t, f.verify(t, agent, second).Valid)

	require.Equal(t, http.StatusNoContent, f.do(t, http.MethodDelete, f.url(agent, "/", id), token, "").status)
	require.False(t, f.verify(t, agent, first).Valid)
	require.False(t, f.verify(t, agent, second).Valid)
	again := f.do(t, http.MethodDelete, f.url(agent, "/", id), token, "")
	require.Equal(t, http.StatusConflict, again.status)
	require.Equal(t, "CREDENTIAL_ALREADY_REVOKED", again.body["code"])

	var actions []auditevent.Action
	for _, e := range f.auditTrail(t, 3) {
		actions = append(actions, e.Action)
		require.Equal(t, agent, *e.AgentID)
		require.Equal(t, agent, *e.ActorID)
		require.Equal(t, "127.0.0.1", e.IPAddress)
		require.Equal(t, id, e.Metadata["credentialId"])
	}
	require.ElementsMatch(t, []auditevent.Action{
		auditevent.CredentialGenerated, auditevent.CredentialRotated, auditevent.CredentialRevoked,
	}, actions)
	f.requireNowhere(t, first.(string), second.(string))
}

// requireNowhere looks for secrets where none may be.
func (f *fixture) requireNowhere(t *testing.T, secrets ...string) {
	t.Helper()
	f.Stop()
	require.Contains(t, f.log.String(), `"service":"credentials"`)
	for _, s := range secrets {
		hex := strings.TrimPrefix(s, "sk_live_")
		require.NotContains(t, f.log.String(), hex)
		for _, table := range []string{"agents", "credentials", "outbox"} {
			var found int
			err := f.db.QueryRow(t.Context(), fmt.Sprintf(
				`SELECT count(*) FROM credentials.%s r WHERE r::text LIKE $1 OR r::text LIKE $2`, table),
				"%"+hex+"%", fmt.Sprintf("%%%x%%", hex)).Scan(&found)
			require.NoError(t, err)
			require.Zero(t, found, table)
		}
	}
}

func TestWhoMayTouchWhoseCredentials(t *testing.T) {
	f := setup(t)
	agent, other := f.agent(), f.agent()
	created := f.do(t, http.MethodPost, f.url(agent), f.token(t, other, "agents:admin"), "{}")
	require.Equal(t, http.StatusCreated, created.status, "an operator may")
	id := created.body["credentialId"].(string)

	for _, request := range [][2]string{
		{http.MethodPost, f.url(agent)}, {http.MethodGet, f.url(agent)},
		{http.MethodPost, f.url(agent, "/", id, "/rotate")}, {http.MethodDelete, f.url(agent, "/", id)},
	} {
		anonymous := f.do(t, request[0], request[1], "", "")
		require.Equal(t, http.StatusUnauthorized, anonymous.status)
		require.Contains(t, anonymous.header.Get("WWW-Authenticate"), "Bearer")
		foreign := f.do(t, request[0], request[1], f.token(t, other, "agents:write agents:read"), "")
		require.Equal(t, http.StatusForbidden, foreign.status)
		require.NotEmpty(t, foreign.body["details"].(map[string]any)["reason"])
		reader := f.do(t, request[0], request[1], f.token(t, agent, "agents:read"), "")
		require.Equal(t, http.StatusForbidden, reader.status)
		require.Contains(t, reader.header.Get("WWW-Authenticate"), "insufficient_scope")
	}
	require.True(t, f.verify(t, agent, created.body["clientSecret"]).Valid)

	mine := f.do(t, http.MethodDelete, f.url(other, "/", id), f.token(t, other, "agents:write"), "")
	require.Equal(t, http.StatusNotFound, mine.status)
	require.Equal(t, "CREDENTIAL_NOT_FOUND", mine.body["code"])
}

func TestWhatTheRegistrySaysCounts(t *testing.T) {
	f := setup(t)
	agent := f.agent()
	admin := f.token(t, f.agent(), "agents:admin")

	unknown := f.do(t, http.MethodPost, f.url(uuid.New()), admin, "")
	require.Equal(t, "AGENT_NOT_FOUND", unknown.body["code"])
	require.Equal(t, http.StatusNotFound, f.get(t, f.url(uuid.New()), admin).status)

	f.registry.set(agent, registryapi.StatusSuspended)
	suspended := f.do(t, http.MethodPost, f.url(agent), admin, "")
	require.Equal(t, http.StatusConflict, suspended.status)
	require.Equal(t, "AGENT_NOT_ACTIVE", suspended.body["code"])

	f.registry.set(agent, registryapi.StatusActive)
	f.registry.goAway()
	away := f.do(t, http.MethodPost, f.url(agent), admin, "")
	require.Equal(t, http.StatusServiceUnavailable, away.status)
	require.NotEmpty(t, away.header.Get("Retry-After"))
}

func TestTheLimitHoldsAgainstManyAtOnce(t *testing.T) {
	f := setup(t)
	agent := f.agent()
	token := f.token(t, agent, "agents:write")
	answers := make([]answer, 6)
	var wg sync.WaitGroup
	for i := range answers {
		wg.Go(func() { answers[i] = f.do(t, http.MethodPost, f.url(agent), token, "") })
	}
	wg.Wait()
	created := 0
	for _, a := range answers {
		if a.status == http.StatusCreated {
			created++
			continue
		}
		require.Equal(t, http.StatusConflict, a.status, a.body)
		require.Equal(t, "CREDENTIAL_LIMIT_EXCEEDED", a.body["code"])
		require.InDelta(t, 3, a.body["details"].(map[string]any)["limit"], 0)
	}
	require.Equal(t, 3, created, "the setting with the service's own prefix counts")
}

func TestADecommissionReachesTheCredentials(t *testing.T) {
	f := setup(t)
	agent, operator := f.agent(), f.agent()
	admin := f.token(t, operator, "agents:admin")
	var secrets []any
	for range 2 {
		secrets = append(secrets, f.do(t, http.MethodPost, f.url(agent), admin, "").body["clientSecret"])
	}
	require.True(t, f.verify(t, agent, secrets[0]).Valid)

	actor := uuid.New()
	msg, err := lifecycle.AgentChanged{
		AgentID: agent, Status: registryapi.StatusDecommissioned, Revision: 2, OccurredAt: time.Now(),
		Origin: auditevent.Origin{ActorID: &actor, IPAddress: "198.51.100.4", RequestID: "req-d"},
	}.Message(uuid.Must(uuid.NewV7()))
	require.NoError(t, err)
	_, err = f.nats.JS().Publish(t.Context(), msg.Subject, msg.Payload)
	require.NoError(t, err)

	revoked := 0
	for _, e := range f.auditTrail(t, 4) {
		if e.Action == auditevent.CredentialRevoked {
			revoked++
			require.Equal(t, actor, *e.ActorID)
			require.Equal(t, "198.51.100.4", e.IPAddress)
		}
	}
	require.Equal(t, 2, revoked)
	for _, s := range secrets {
		require.False(t, f.verify(t, agent, s).Valid)
	}
	listed := f.get(t, f.url(agent)+"?status=revoked", admin)
	require.InDelta(t, 2, listed.body["total"], 0)
	// The registry here still says active, as it does to a request that asked just before.
	late := f.do(t, http.MethodPost, f.url(agent), admin, "")
	require.Equal(t, "AGENT_NOT_ACTIVE", late.body["code"])
}

func TestTheOperatorGetsItsCredentialOnce(t *testing.T) {
	f := setup(t)
	operator := f.agent()
	req := credentialsapi.OperatorCredentialRequest{AgentID: operator, OnlyIfNone: true}
	first, err := f.api.OperatorCredential(t.Context(), req)
	require.NoError(t, err)
	require.Equal(t, operator, first.ClientID)
	require.True(t, f.verify(t, operator, first.ClientSecret.Reveal()).Valid)
	second, err := f.api.OperatorCredential(t.Context(), req)
	require.NoError(t, err)
	require.Equal(t, credentialsapi.OperatorCredential{Exists: true}, second)
	taken := credentialsapi.OperatorRevocation{AgentID: operator, CredentialID: first.CredentialID}
	require.NoError(t, f.api.RevokeOperatorCredential(t.Context(), taken))
	require.False(t, f.verify(t, operator, first.ClientSecret.Reveal()).Valid)
	require.Equal(t, apperr.CredentialAlreadyRevoked, apperr.CodeOf(f.api.RevokeOperatorCredential(t.Context(), taken)))
}

func TestAServiceStartsBeforeWhatItNeedsAndStopsWithoutIt(t *testing.T) {
	t.Parallel()
	nowhere := "127.0.0.1:1"
	cfg, err := credentials.LoadConfig(testkit.Environment(map[string]string{
		"DATABASE_URL": "postgres://nobody@" + nowhere + "/none", "REDIS_URL": "redis://" + nowhere, "NATS_URL": "nats://" + nowhere,
		"REGISTRY_INTERNAL_URL": "http://" + nowhere, "TOKEN_INTERNAL_URL": "http://" + nowhere,
		"ISSUER": issuer, "INTERNAL_API_TOKEN": internalToken, "DRAIN_DELAY": "0s",
		"PUBLIC_ADDR": "127.0.0.1:0", "INTERNAL_ADDR": "127.0.0.1:0",
	}))
	require.NoError(t, err)
	require.Equal(t, 100, cfg.MaxActive)
	f := &fixture{log: &testkit.Log{}}
	f.start(t, cfg)
	require.Equal(t, http.StatusOK, f.get(t, f.Internal+"/healthz").status)
	require.Equal(t, http.StatusServiceUnavailable, f.get(t, f.Internal+"/readyz").status)
	_, err = f.api.Verify(t.Context(), credentialsapi.VerifyRequest{
		ClientID: uuid.New(), Secret: config.Secret("sk_live_" + strings.Repeat("0", 64)),
	})
	require.Error(t, err, "nobody knows, so nobody says no")
	f.Stop()
}

func TestAReplicaThatLosesPostgresIsNotReady(t *testing.T) {
	database := testkit.Postgres(t, "credentials")
	f := setup(t, "DATABASE_URL="+database.AppURL)
	database.Stop(t)
	require.Equal(t, http.StatusServiceUnavailable, f.get(t, f.Internal+"/readyz").status)
}

func TestSettingsThatCannotWorkAreAllNamed(t *testing.T) {
	t.Parallel()
	complete := map[string]string{
		"DATABASE_URL": "postgres://localhost/a", "REDIS_URL": "redis://localhost", "NATS_URL": "nats://localhost",
		"ISSUER": issuer, "INTERNAL_API_TOKEN": internalToken,
		"REGISTRY_INTERNAL_URL": "registry:9090", "TOKEN_INTERNAL_URL": "/token", "MAX_ACTIVE_CREDENTIALS": "-1",
	}
	for wrong, set := range map[string]map[string]string{
		"DATABASE_URL REDIS_URL NATS_URL ISSUER INTERNAL_API_TOKEN REGISTRY_INTERNAL_URL TOKEN_INTERNAL_URL LOG_LEVEL": {"LOG_LEVEL": "loud"},
		"REGISTRY_INTERNAL_URL TOKEN_INTERNAL_URL MAX_ACTIVE_CREDENTIALS":                                              complete,
	} {
		_, err := credentials.LoadConfig(testkit.Environment(set))
		for name := range strings.FieldsSeq(wrong) {
			require.ErrorContains(t, err, name)
		}
	}
	_, err := credentials.New(t.Context(), credentials.Config{})
	require.Error(t, err)
}
