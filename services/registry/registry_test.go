package registry_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/natsx"
	"github.com/sentryagent/agentidp/pkg/peer"
	"github.com/sentryagent/agentidp/pkg/registryapi"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/pkg/testkit"
	"github.com/sentryagent/agentidp/services/registry"
)

const (
	issuer        = "http://idp.test"
	internalToken = "internal-token-of-the-tests"
	patience      = 20 * time.Second
	often         = 20 * time.Millisecond
)

// replica is one running service on real servers, beside a token service that knows one key.
type replica struct {
	*testkit.Replica

	api      *registryapi.Client
	nats     *natsx.Conn
	tokens   *testkit.TokenService
	database testkit.Database
}

// settings of a replica; the servers that they name need not be there.
func settings(changes map[string]string) map[string]string {
	values := map[string]string{
		"DATABASE_URL": "postgres://nobody@127.0.0.1:1/none", "REDIS_URL": "redis://127.0.0.1:1", "NATS_URL": "nats://127.0.0.1:1",
		"TOKEN_INTERNAL_URL": "http://127.0.0.1:1", "ISSUER": issuer, "INTERNAL_API_TOKEN": internalToken,
		"PUBLIC_ADDR": "127.0.0.1:0", "INTERNAL_ADDR": "127.0.0.1:0", "DRAIN_DELAY": "0s", "LOG_LEVEL": "error",
	}
	for name, value := range changes {
		values[name] = value
	}
	return values
}

func start(t *testing.T, values map[string]string) *replica {
	t.Helper()
	cfg, err := registry.LoadConfig(testkit.Environment(values))
	require.NoError(t, err)
	r := &replica{Replica: testkit.Serve(t, registry.New, cfg, io.Discard)}
	r.api = registryapi.NewClient(peer.New(peer.Config{
		BaseURL: r.Internal, Token: internalToken, Name: "registry", Telemetry: telemetry.Discard("test"),
	}))
	return r
}

func setup(t *testing.T) *replica {
	t.Helper()
	tokens := testkit.StartTokenService(t, issuer)
	natsServer := testkit.NATSServer(t)
	conn := testkit.ConnectNATS(t, natsServer.URL())
	require.NoError(t, conn.DeclareAudit(t.Context()))
	require.NoError(t, conn.DeclareLifecycle(t.Context()))
	database := testkit.Postgres(t, "registry")
	r := start(t, settings(map[string]string{
		"DATABASE_URL": database.AppURL, "REDIS_URL": testkit.RedisServer(t).URL(),
		"NATS_URL": natsServer.URL(), "TOKEN_INTERNAL_URL": tokens.URL,
		"FREE_TIER_MAX_AGENTS": "50", "REGISTRY_FREE_TIER_MAX_AGENTS": "2",
	}))
	r.nats, r.tokens, r.database = conn, tokens, database
	r.AwaitReady(t)
	return r
}

func get(t *testing.T, url string) *http.Response {
	t.Helper()
	return do(t, http.MethodGet, url, "", "")
}

func do(t *testing.T, method, url, token, body string) *http.Response {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	require.NoError(t, err)
	request.Header.Set("Content-Type", "application/json")
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	read, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	response.Body = io.NopCloser(strings.NewReader(string(read)))
	return response
}

func text(t *testing.T, response *http.Response) string {
	t.Helper()
	read, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return string(read)
}

func (r *replica) token(t *testing.T, agent uuid.UUID) string {
	t.Helper()
	return r.tokens.Sign(t, agent, "agents:admin")
}

// events are the audit events in the stream, once there are n of them.
func (r *replica) events(t *testing.T, n int) []auditevent.Event {
	t.Helper()
	stream, err := r.nats.JS().Stream(t.Context(), natsx.AuditStream)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		info, err := stream.Info(t.Context())
		return err == nil && info.State.Msgs >= uint64(n)
	}, patience, often)
	consumer, err := stream.CreateConsumer(t.Context(), jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy})
	require.NoError(t, err)
	batch, err := consumer.Fetch(n+1, jetstream.FetchMaxWait(time.Second))
	require.NoError(t, err)
	var events []auditevent.Event
	for message := range batch.Messages() {
		events = append(events, testkit.Event(t, message.Data()))
	}
	require.Len(t, events, n)
	return events
}

func TestAnAgentFromTheOperatorToItsEnd(t *testing.T) {
	t.Parallel()
	r := setup(t)
	operator, created, err := r.api.Bootstrap(t.Context(), registryapi.BootstrapRequest{Email: "o@example.com", Owner: "platform"})
	require.NoError(t, err)
	require.True(t, created)
	token := r.token(t, operator.AgentID)

	const body = `{"email":"%@example.com","agentType":"screener","version":"1.0.0","capabilities":["resume:read"],` +
		`"owner":"talent","deploymentEnv":"staging"}`
	agents := r.Public + "/api/v1/agents"
	registered := do(t, http.MethodPost, agents, token, strings.Replace(body, "%", "a", 1))
	require.Equal(t, http.StatusCreated, registered.StatusCode)
	require.NotEmpty(t, registered.Header.Get("X-RateLimit-Remaining"))
	var agent registryapi.Agent
	require.NoError(t, json.Unmarshal([]byte(text(t, registered)), &agent))
	path := agents + "/" + agent.AgentID.String()

	full := do(t, http.MethodPost, agents, token, strings.Replace(body, "%", "b", 1))
	require.Equal(t, http.StatusForbidden, full.StatusCode, "REGISTRY_FREE_TIER_MAX_AGENTS beats FREE_TIER_MAX_AGENTS")
	require.JSONEq(t, `{"code":"FREE_TIER_LIMIT_EXCEEDED","message":"The limit of registered agents has been reached.","details":{"limit":2}}`,
		text(t, full))
	require.Equal(t, http.StatusUnauthorized, get(t, path).StatusCode)
	require.Equal(t, http.StatusOK, do(t, http.MethodPatch, path, token, `{"status":"suspended"}`).StatusCode)
	require.Equal(t, http.StatusNoContent, do(t, http.MethodDelete, path, token, "").StatusCode)

	var actions []auditevent.Action
	for _, event := range r.events(t, 4) {
		actions = append(actions, event.Action)
	}
	require.ElementsMatch(t, []auditevent.Action{
		auditevent.AgentCreated, auditevent.AgentCreated, auditevent.AgentSuspended, auditevent.AgentDecommissioned,
	}, actions)
	lifecycle, err := r.nats.JS().Stream(t.Context(), natsx.LifecycleStream)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		last, err := lifecycle.GetLastMsgForSubject(t.Context(), "lifecycle.agent."+agent.AgentID.String())
		return err == nil && strings.Contains(string(last.Data), `"status":"decommissioned","revision":3`)
	}, patience, often)

	metrics := text(t, get(t, r.Internal+"/metrics"))
	require.Contains(t, metrics, `agentidp_agents_registered_total{outcome="success"} 2`)
	require.Contains(t, metrics, `agentidp_agents_registered_total{outcome="limit_exceeded"} 1`)
	require.Contains(t, metrics, `agentidp_agents_registered_total{outcome="already_exists"} 0`)
	require.Contains(t, metrics, `agentidp_db_query_duration_seconds_count{operation="agent_insert"}`)
	r.Stop()
	_, err = http.Get(r.Public + "/healthz")
	require.Error(t, err, "nobody listens any more")
}

func TestAReplicaStartsBeforeWhatItNeeds(t *testing.T) {
	t.Parallel()
	r := start(t, settings(nil))
	require.Equal(t, http.StatusOK, get(t, r.Public+"/healthz").StatusCode)
	require.Equal(t, http.StatusOK, get(t, r.Internal+"/healthz").StatusCode)
	unready := get(t, r.Internal+"/readyz")
	require.Equal(t, http.StatusServiceUnavailable, unready.StatusCode)
	require.NotContains(t, text(t, unready), "127.0.0.1")
	_, err := r.api.Agent(t.Context(), uuid.New())
	require.ErrorContains(t, err, "SERVICE_UNAVAILABLE")
	r.Stop()
}

func TestAReplicaThatLosesPostgresIsNotReady(t *testing.T) {
	t.Parallel()
	r := setup(t)
	r.database.Stop(t)
	require.Equal(t, http.StatusServiceUnavailable, get(t, r.Internal+"/readyz").StatusCode)
	r.Stop()
}

func TestEverySettingThatIsWrongIsNamedAtOnce(t *testing.T) {
	t.Parallel()
	_, err := registry.LoadConfig(testkit.Environment(nil))
	require.Error(t, err)
	for _, name := range []string{"DATABASE_URL", "REDIS_URL", "NATS_URL", "TOKEN_INTERNAL_URL", "ISSUER", "INTERNAL_API_TOKEN"} {
		require.ErrorContains(t, err, name)
	}
	_, err = registry.LoadConfig(testkit.Environment(settings(map[string]string{
		"FREE_TIER_MAX_AGENTS": "-1", "TOKEN_INTERNAL_URL": "token:9090", "RATE_LIMIT_PER_MINUTE": "-1", "INTERNAL_API_TOKEN": "",
	})))
	for _, name := range []string{"FREE_TIER_MAX_AGENTS", "TOKEN_INTERNAL_URL", "RATE_LIMIT_PER_MINUTE", "INTERNAL_API_TOKEN"} {
		require.Equal(t, 1, strings.Count(err.Error(), name), "%s in %s", name, err)
	}

	cfg, err := registry.LoadConfig(testkit.Environment(settings(nil)))
	require.NoError(t, err)
	require.Equal(t, int64(100), cfg.MaxAgents)
	for _, setting := range config.Settings(cfg) {
		require.NotEmpty(t, setting.Description, setting.Name)
	}
}

func TestAServiceThatCannotBeMadeLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	for name, value := range map[string]string{"DATABASE_URL": "::", "REDIS_URL": "::", "NATS_URL": "nats://%zz"} {
		cfg, err := registry.LoadConfig(testkit.Environment(settings(map[string]string{name: value})))
		if err == nil { // some mistakes show when the setting is read, some when it is used
			_, err = registry.New(telemetry.WithOutput(t.Context(), io.Discard), cfg)
		}
		require.ErrorContains(t, err, name)
	}
}
