package token_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/credentialsapi"
	"github.com/sentryagent/agentidp/pkg/natsx"
	"github.com/sentryagent/agentidp/pkg/outbox"
	"github.com/sentryagent/agentidp/pkg/registryapi"
	"github.com/sentryagent/agentidp/pkg/testkit"
	"github.com/sentryagent/agentidp/services/token"
)

const (
	internalToken = "internal-token-of-the-tests"
	issuer        = "http://idp.test"
	goodSecret    = "sk_live_00000000000000000000000000000000000000000000000000000000000000aa"
	wrongSecret   = "sk_live_00000000000000000000000000000000000000000000000000000000000000bb"
	soon          = 10 * time.Second
	often         = 20 * time.Millisecond
)

// peers are the registry and the credentials service in one.
type peers struct {
	mu       sync.Mutex
	agents   map[uuid.UUID]registryapi.Agent
	secrets  map[uuid.UUID]string
	uses     []credentialsapi.Use
	down     atomic.Bool
	lookups  atomic.Int64
	verified atomic.Int64
	server   *httptest.Server
}

func startPeers(t *testing.T) *peers {
	t.Helper()
	p := &peers{agents: map[uuid.UUID]registryapi.Agent{}, secrets: map[uuid.UUID]string{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /internal/v1/agents", p.lookup)
	mux.HandleFunc("GET /internal/v1/cutoffs", p.cutoffs)
	mux.HandleFunc("POST /internal/v1/secrets/verify", p.verify)
	mux.HandleFunc("POST /internal/v1/usage", p.usage)
	p.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case p.down.Load():
			w.WriteHeader(http.StatusBadGateway)
		case r.Header.Get("Authorization") != "Bearer "+internalToken:
			w.WriteHeader(http.StatusUnauthorized)
		default:
			mux.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(p.server.Close)
	return p
}

func (p *peers) lookup(w http.ResponseWriter, r *http.Request) {
	p.lookups.Add(1)
	found := registryapi.AgentsResponse{Agents: []registryapi.Agent{}}
	p.mu.Lock()
	defer p.mu.Unlock()
	for text := range strings.SplitSeq(r.URL.Query().Get("ids"), ",") {
		id, _ := uuid.Parse(text)
		if agent, ok := p.agents[id]; ok {
			found.Agents = append(found.Agents, agent)
		}
	}
	_ = json.NewEncoder(w).Encode(found)
}

// cutoffs answers one page: no test has more agents.
func (p *peers) cutoffs(w http.ResponseWriter, r *http.Request) {
	since, _ := time.Parse(time.RFC3339Nano, r.URL.Query().Get("since"))
	all := registryapi.CutoffsResponse{Cutoffs: []registryapi.Cutoff{}}
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, agent := range p.agents {
		if agent.TokensValidAfter.After(since) {
			all.Cutoffs = append(all.Cutoffs, registryapi.Cutoff{
				AgentID: id, Status: agent.Status, Revision: agent.Revision, TokensValidAfter: agent.TokensValidAfter,
			})
		}
	}
	_ = json.NewEncoder(w).Encode(all)
}

func (p *peers) verify(w http.ResponseWriter, r *http.Request) {
	p.verified.Add(1)
	var request credentialsapi.VerifyRequest
	_ = json.NewDecoder(r.Body).Decode(&request)
	p.mu.Lock()
	secret, known := p.secrets[request.ClientID]
	p.mu.Unlock()
	response := credentialsapi.VerifyResponse{Reason: credentialsapi.ReasonInvalidSecret}
	if known && request.Secret.Reveal() == secret {
		id := credentialOf(request.ClientID)
		response = credentialsapi.VerifyResponse{Valid: true, CredentialID: &id}
	}
	_ = json.NewEncoder(w).Encode(response)
}

func (p *peers) usage(w http.ResponseWriter, r *http.Request) {
	var request credentialsapi.UsageRequest
	_ = json.NewDecoder(r.Body).Decode(&request)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.uses = append(p.uses, request.Uses...)
	w.WriteHeader(http.StatusNoContent)
}

func credentialOf(agentID uuid.UUID) uuid.UUID { return uuid.NewSHA1(agentID, []byte("credential")) }

// register makes an agent with the good secret.
func (p *peers) register(change ...func(*registryapi.Agent)) uuid.UUID {
	agent := registryapi.Agent{
		AgentID: uuid.Must(uuid.NewV7()), Email: "a@example.com", AgentType: "screener", Version: "1.0.0",
		Capabilities: []string{"resume:read"}, Owner: "talent", DeploymentEnv: "production",
		AllowedScopes: []string{"agents:read", "tokens:read"}, Status: registryapi.StatusActive, Revision: 1,
	}
	for _, apply := range change {
		apply(&agent)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.agents[agent.AgentID] = agent
	p.secrets[agent.AgentID] = goodSecret
	return agent.AgentID
}

// change changes an agent as the registry would, and answers its new state.
func (p *peers) change(id uuid.UUID, apply func(*registryapi.Agent)) registryapi.Agent {
	p.mu.Lock()
	defer p.mu.Unlock()
	agent := p.agents[id]
	before := agent.Status
	apply(&agent)
	agent.Revision++
	if agent.Status != before {
		agent.TokensValidAfter = time.Now().UTC().Truncate(time.Millisecond).Add(time.Millisecond)
	}
	p.agents[id] = agent
	return agent
}

// broker and redisServer are servers that a test may stop and restart.
type (
	broker interface {
		URL() string
		Stop()
		Restart() error
	}
	redisServer interface {
		URL() string
		Stop()
		Restart(ctx context.Context) error
		Freeze() error
		Thaw() error
	}
)

// world is a token service with everything around it.
type world struct {
	*testkit.Replica

	peers    *peers
	settings map[string]string
	database testkit.Database
	nats     *natsx.Conn
	broker   broker
	redis    redisServer
}

func setup(t *testing.T, settings map[string]string) *world {
	t.Helper()
	w := &world{peers: startPeers(t), database: testkit.Postgres(t, "token")}
	w.broker, w.redis = testkit.NATSServer(t), testkit.RedisServer(t)
	w.nats = testkit.ConnectNATS(t, w.broker.URL())
	require.NoError(t, w.nats.DeclareAudit(t.Context()))
	require.NoError(t, w.nats.DeclareLifecycle(t.Context()))
	w.settings = map[string]string{
		"PUBLIC_ADDR": "127.0.0.1:0", "INTERNAL_ADDR": "127.0.0.1:0", "INTERNAL_API_TOKEN": internalToken,
		"DATABASE_URL": w.database.AppURL, "REDIS_URL": w.redis.URL(), "NATS_URL": w.broker.URL(),
		"ISSUER": issuer, "RATE_LIMIT_PER_MINUTE": "0", "DRAIN_DELAY": "0s", "LOG_LEVEL": "error",
		"REGISTRY_INTERNAL_URL": w.peers.server.URL, "CREDENTIALS_INTERNAL_URL": w.peers.server.URL,
		"KEY_ENCRYPTION_KEY": base64.StdEncoding.EncodeToString(make([]byte, 32)), "SIGNING_ALG": "ES256",
	}
	for name, value := range settings {
		w.settings[name] = value
	}
	w.start(t)
	return w
}

// start runs the service until the test ends or Stop is called, and waits until it is ready.
func (w *world) start(t *testing.T) {
	t.Helper()
	w.run(t)
	w.AwaitReady(t)
}

func (w *world) run(t *testing.T) {
	t.Helper()
	cfg, err := token.LoadConfig(testkit.Environment(w.settings))
	require.NoError(t, err)
	w.Replica = testkit.Serve(t, token.New, cfg, os.Stderr)
}

type reply struct {
	status int
	header http.Header
	body   string
}

func (r reply) field(t *testing.T, name string) any {
	t.Helper()
	var fields map[string]any
	require.NoError(t, json.Unmarshal([]byte(r.body), &fields), r.body)
	return fields[name]
}

func (w *world) send(t *testing.T, request *http.Request) reply {
	t.Helper()
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return reply{body: err.Error()}
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return reply{body: err.Error()}
	}
	return reply{status: response.StatusCode, header: response.Header, body: string(body)}
}

func (w *world) get(t *testing.T, target string) reply {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, target, http.NoBody)
	require.NoError(t, err)
	request.Header.Set("Authorization", "Bearer "+internalToken)
	return w.send(t, request)
}

func (w *world) post(t *testing.T, path, bearer string, values url.Values) reply {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.Public+path, strings.NewReader(values.Encode()))
	require.NoError(t, err)
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if bearer != "" {
		request.Header.Set("Authorization", "Bearer "+bearer)
	}
	return w.send(t, request)
}

func (w *world) ask(t *testing.T, id uuid.UUID, secret, scope string) reply {
	t.Helper()
	values := url.Values{"grant_type": {"client_credentials"}, "client_id": {id.String()}, "client_secret": {secret}}
	if scope != "" {
		values.Set("scope", scope)
	}
	return w.post(t, "/api/v1/token", "", values)
}

// issue gets a token that must be had.
func (w *world) issue(t *testing.T, id uuid.UUID, scope string) string {
	t.Helper()
	got := w.ask(t, id, goodSecret, scope)
	require.Equal(t, http.StatusOK, got.status, got.body)
	access, ok := got.field(t, "access_token").(string)
	require.True(t, ok)
	return access
}

func (w *world) introspect(t *testing.T, bearer, access string) reply {
	t.Helper()
	return w.post(t, "/api/v1/token/introspect", bearer, url.Values{"token": {access}})
}

func (w *world) revoke(t *testing.T, bearer, access string) reply {
	t.Helper()
	return w.post(t, "/api/v1/token/revoke", bearer, url.Values{"token": {access}})
}

// publish brings a message to NATS as the relay of another service would.
func (w *world) publish(t *testing.T, message outbox.Message, err error) {
	t.Helper()
	require.NoError(t, err)
	_, err = w.nats.JS().Publish(t.Context(), message.Subject, message.Payload, jetstream.WithMsgID(message.ID.String()))
	require.NoError(t, err)
}

// events reads all audit events that are in the stream, each once, as the audit service takes them: one whose
// acknowledgement was late may have come both ways.
func (w *world) events(t *testing.T) []auditevent.Event {
	t.Helper()
	stream, err := w.nats.JS().Stream(t.Context(), natsx.AuditStream)
	require.NoError(t, err)
	info, err := stream.Info(t.Context())
	require.NoError(t, err)
	var events []auditevent.Event
	seen := map[uuid.UUID]bool{}
	for seq := info.State.FirstSeq; seq <= info.State.LastSeq && seq > 0; seq++ {
		message, err := stream.GetMsg(t.Context(), seq)
		require.NoError(t, err)
		for _, payload := range auditevent.Split(message.Subject, message.Data) {
			if event := testkit.Event(t, payload); !seen[event.EventID] {
				seen[event.EventID] = true
				events = append(events, event)
			}
		}
	}
	return events
}

func (w *world) eventsOf(t *testing.T, action auditevent.Action) []auditevent.Event {
	t.Helper()
	var found []auditevent.Event
	for _, event := range w.events(t) {
		if event.Action == action {
			found = append(found, event)
		}
	}
	return found
}

// claimsOf reads the claims of a token without verifying it.
func claimsOf(t *testing.T, access string) map[string]any {
	t.Helper()
	parts := strings.Split(access, ".")
	require.Len(t, parts, 3)
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	require.NoError(t, err)
	var claims map[string]any
	require.NoError(t, json.Unmarshal(raw, &claims))
	return claims
}
