package credentials_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/credentialsapi"
	"github.com/sentryagent/agentidp/pkg/natsx"
	"github.com/sentryagent/agentidp/pkg/peer"
	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/pkg/registryapi"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/pkg/testkit"
	"github.com/sentryagent/agentidp/services/credentials"
)

const (
	internalToken = "internal-token-of-the-tests"
	issuer        = "http://idp.test"
	eventually    = 30 * time.Second
	often         = 20 * time.Millisecond
)

// fixture is one replica on real servers, between a registry and a token service
// that a test commands. Tests with one do not run side by side: bcrypt under the
// race detector takes a second of a core, and more of it at once only waits.
type fixture struct {
	*testkit.Replica

	registry *fakeRegistry
	tokens   *testkit.TokenService
	nats     *natsx.Conn
	db       *pgdb.DB
	log      *testkit.Log
	api      *credentialsapi.Client
	given    map[string]string // the settings
}

// setup takes settings beside those that it makes.
func setup(t *testing.T, settings ...string) *fixture {
	t.Helper()
	natsServer, redisServer := testkit.NATSServer(t), testkit.RedisServer(t)
	database := testkit.Postgres(t, "credentials")
	f := &fixture{
		registry: &fakeRegistry{status: map[uuid.UUID]string{}},
		tokens:   testkit.StartTokenService(t, issuer), nats: testkit.ConnectNATS(t, natsServer.URL()), db: testkit.Open(t, database.AppURL),
		log: &testkit.Log{},
	}
	require.NoError(t, f.nats.DeclareAudit(t.Context()))
	registry := httptest.NewServer(f.registry)
	t.Cleanup(registry.Close)

	given := map[string]string{
		"DATABASE_URL": database.AppURL, "REDIS_URL": redisServer.URL(), "NATS_URL": natsServer.URL(),
		"REGISTRY_INTERNAL_URL": registry.URL, "TOKEN_INTERNAL_URL": f.tokens.URL,
		"ISSUER": issuer, "INTERNAL_API_TOKEN": internalToken, "DRAIN_DELAY": "0s", "LOG_LEVEL": "debug",
		"PUBLIC_ADDR": "127.0.0.1:0", "INTERNAL_ADDR": "127.0.0.1:0",
		"MAX_ACTIVE_CREDENTIALS": "50", "CREDENTIALS_MAX_ACTIVE_CREDENTIALS": "3",
	}
	for _, setting := range settings {
		name, value, _ := strings.Cut(setting, "=")
		given[name] = value
	}
	f.given = given
	f.startAgain(t)
	return f
}

// startAgain stops the replica, if one runs, and starts another with the settings as they are then.
func (f *fixture) startAgain(t *testing.T) {
	t.Helper()
	if f.Replica != nil {
		f.Stop()
	}
	cfg, err := credentials.LoadConfig(testkit.Environment(f.given))
	require.NoError(t, err)
	f.start(t, cfg)
	f.AwaitReady(t)
}

func (f *fixture) start(t *testing.T, cfg credentials.Config) {
	t.Helper()
	f.Replica = testkit.Serve(t, credentials.New, cfg, f.log)
	f.api = credentialsapi.NewClient(peer.New(peer.Config{
		BaseURL: f.Internal, Token: internalToken, Name: "credentials", Telemetry: telemetry.Discard("test"),
		Timeout: eventually,
	}))
}

// token for an agent, as the token service would sign it.
func (f *fixture) token(t *testing.T, agent uuid.UUID, scope string) string {
	t.Helper()
	return f.tokens.Sign(t, agent, scope)
}

type answer struct {
	status int
	header http.Header
	body   map[string]any
}

func (f *fixture) get(t *testing.T, url string, token ...string) answer {
	t.Helper()
	return f.do(t, http.MethodGet, url, strings.Join(token, ""), "")
}

func (f *fixture) do(t *testing.T, method, url, token, body string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	require.NoError(t, err)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer func() { require.NoError(t, res.Body.Close()) }()
	raw, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	a := answer{status: res.StatusCode, header: res.Header}
	_ = json.Unmarshal(raw, &a.body) // metrics are no JSON
	return a
}

// auditTrail takes events out of the stream until there are as many as wanted.
func (f *fixture) auditTrail(t *testing.T, want int) []auditevent.Event {
	t.Helper()
	consumer, err := f.nats.JS().CreateOrUpdateConsumer(t.Context(), natsx.AuditStream, jetstream.ConsumerConfig{
		Durable: "test", AckPolicy: jetstream.AckExplicitPolicy,
	})
	require.NoError(t, err)
	var events []auditevent.Event
	deadline := time.Now().Add(eventually)
	for len(events) < want && time.Now().Before(deadline) {
		batch, err := consumer.Fetch(want+1, jetstream.FetchMaxWait(time.Second))
		require.NoError(t, err)
		for msg := range batch.Messages() {
			events = append(events, testkit.Event(t, msg.Data()))
			require.NoError(t, msg.Ack())
		}
	}
	require.Len(t, events, want)
	return events
}

// fakeRegistry is the registry's internal API over a map.
type fakeRegistry struct {
	mu     sync.Mutex
	status map[uuid.UUID]string
	down   bool
}

func (r *fakeRegistry) set(agent uuid.UUID, status string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status[agent] = status
}

func (r *fakeRegistry) goAway() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = true
}

func (r *fakeRegistry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	id, _ := uuid.Parse(req.URL.Query().Get("ids"))
	status, known := r.status[id]
	switch {
	case r.down:
		w.WriteHeader(http.StatusInternalServerError)
	case req.Header.Get("Authorization") != "Bearer "+internalToken:
		w.WriteHeader(http.StatusUnauthorized)
	case !known:
		_ = json.NewEncoder(w).Encode(registryapi.AgentsResponse{Agents: []registryapi.Agent{}})
	default:
		_ = json.NewEncoder(w).Encode(registryapi.AgentsResponse{Agents: []registryapi.Agent{{AgentID: id, Status: status}}})
	}
}
