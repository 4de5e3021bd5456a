package httpapi_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/authn"
	"github.com/sentryagent/agentidp/pkg/authz"
	"github.com/sentryagent/agentidp/pkg/guard"
	"github.com/sentryagent/agentidp/pkg/httpx"
	"github.com/sentryagent/agentidp/pkg/outbox"
	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/pkg/ratelimit"
	"github.com/sentryagent/agentidp/pkg/redisx"
	"github.com/sentryagent/agentidp/pkg/revocation"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/pkg/testkit"
	"github.com/sentryagent/agentidp/services/registry/api"
	"github.com/sentryagent/agentidp/services/registry/internal/agent"
	"github.com/sentryagent/agentidp/services/registry/internal/httpapi"
	"github.com/sentryagent/agentidp/services/registry/internal/postgres"
)

const (
	issuer        = "https://idp.example"
	internalToken = "internal-token-of-the-tests"
	agentsPath    = "/api/v1/agents"
)

// operator is the caller of most tests: it holds every system scope.
var operator = caller{id: uuid.MustParse("019aa9bf-10aa-7d11-8a53-0c3b1f6f2e90"), owner: "platform", scopes: "agents:admin"}

// policy is compiled once: it takes its time, and it does not change.
var policy = sync.OnceValues(func() (*authz.Authorizer, error) {
	return authz.New(context.Background(), authz.Config{}, slog.New(slog.DiscardHandler))
})

var signingKey = sync.OnceValues(func() (ed25519.PublicKey, ed25519.PrivateKey) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		panic(err)
	}
	return public, private
})

// bundle is the whole service but for its sockets: the real router, guard, policy, domain and database.
type bundle struct {
	server *httpx.Server
	db     *pgdb.DB
	redis  *redisx.Client
	clock  *testkit.Clock
}

type options struct {
	maxAgents int64
	rateLimit int
	// policy is the directory of one that replaces the embedded policy; "" is none.
	policy string
	// tokenService is its answer to what Redis does not know: nil is that nothing was revoked.
	tokenService error
}

func setup(t *testing.T) *bundle {
	t.Helper()
	return setupWith(t, options{maxAgents: 1000})
}

func setupWith(t *testing.T, o options) *bundle {
	t.Helper()
	authorizer, err := policy()
	require.NoError(t, err)
	if o.policy != "" {
		authorizer, err = authz.New(t.Context(), authz.Config{PolicyDir: o.policy}, slog.New(slog.DiscardHandler))
		require.NoError(t, err)
	}
	public, _ := signingKey()
	tel := telemetry.Discard("registry")
	b := &bundle{db: testkit.DB(t, "registry"), redis: testkit.Redis(t), clock: testkit.NewClock(time.Now())}
	revocations := revocation.NewStore(b.redis)
	require.NoError(t, revocations.Hydrate(t.Context(), func(context.Context) error { return nil }))
	g := guard.New(guard.Options{
		Verifier: authn.NewVerifier(authn.VerifierConfig{
			Issuer: issuer, Audience: issuer,
			Keys:  testkit.StaticKeys{{ID: "test", Algorithm: authn.EdDSA, Public: public}},
			Clock: time.Now,
		}),
		Redis: b.redis, Limiter: ratelimit.New(b.redis, tel),
		Revocations: revocation.NewChecker(b.redis, func(context.Context, revocation.Query) (bool, error) {
			return false, o.tokenService
		}),
		Authorizer: authorizer, Config: guard.Config{Issuer: issuer, RateLimitPerMinute: o.rateLimit}, Telemetry: tel, Clock: time.Now,
	})
	registry := agent.New(agent.Options{
		Store: postgres.NewStore(b.db, outbox.New("registry")), Cutoffs: revocations, MaxAgents: o.maxAgents,
		Clock: b.clock.Now, NewID: func() uuid.UUID { return uuid.Must(uuid.NewV7()) },
		Log: tel.Log, Registered: func(string) {},
	})
	b.server, err = httpx.NewServer(httpx.Config{InternalAPIToken: internalToken},
		httpx.Options{Service: "registry", Telemetry: tel, OpenAPI: api.Spec})
	require.NoError(t, err)
	httpapi.Register(b.server, httpapi.Config{Registry: registry, Guard: g})
	return b
}

// caller is the bearer of a token.
type caller struct {
	id     uuid.UUID
	owner  string
	scopes string
}

func as(owner, scopes string) caller {
	return caller{id: uuid.Must(uuid.NewV7()), owner: owner, scopes: scopes}
}

func (c caller) token(t *testing.T) string {
	t.Helper()
	_, private := signingKey()
	now := time.Now()
	unsigned := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.MapClaims{
		"iss": issuer, "aud": issuer, "sub": c.id.String(), "client_id": c.id.String(), "iat": now.Unix(), "nbf": now.Unix(),
		"exp": now.Add(time.Hour).Unix(), "jti": uuid.Must(uuid.NewV7()).String(), "scope": c.scopes, "owner": c.owner,
	})
	unsigned.Header["typ"], unsigned.Header["kid"] = "at+jwt", "test"
	raw, err := unsigned.SignedString(private)
	require.NoError(t, err)
	return raw
}

// answer is a response whose body was read.
type answer struct {
	*httptest.ResponseRecorder

	t *testing.T
}

// json is the body as JSON.
func (a answer) json() map[string]any {
	a.t.Helper()
	var body map[string]any
	require.NoError(a.t, json.Unmarshal(a.Body.Bytes(), &body), a.Body.String())
	return body
}

func (a answer) id() string { return a.json()["agentId"].(string) }

// requireError demands an error of that code, of the shape that all errors have, and returns its details.
func (a answer) requireError(code apperr.Code) map[string]any {
	a.t.Helper()
	require.Equal(a.t, code.Status(), a.Code, a.Body.String())
	require.Equal(a.t, "application/json", a.Header().Get("Content-Type"))
	body := a.json()
	require.Equal(a.t, string(code), body["code"], a.Body.String())
	require.NotEmpty(a.t, body["message"])
	require.Empty(a.t, a.Header().Get("ETag"))
	details, _ := body["details"].(map[string]any)
	return details
}

// requireFields demands a VALIDATION_ERROR about exactly these fields, and returns their reasons.
func (a answer) requireFields(fields ...string) map[string]string {
	a.t.Helper()
	details := a.requireError(apperr.ValidationError)
	reasons := map[string]string{}
	var names []string
	for _, item := range details["errors"].([]any) {
		fault := item.(map[string]any)
		name := fault["field"].(string)
		names = append(names, name)
		reasons[name] = fault["reason"].(string)
		require.NotEmpty(a.t, fault["reason"])
	}
	require.ElementsMatch(a.t, fields, names, a.Body.String())
	return reasons
}

func (a answer) requireStatus(status int) answer {
	a.t.Helper()
	require.Equal(a.t, status, a.Code, a.Body.String())
	return a
}

// call sends a public request with a token of the caller and holds the answer against the OpenAPI document. Headers come
// as name and value in turn.
func (b *bundle) call(t *testing.T, c caller, method, target, body string, headers ...string) answer {
	t.Helper()
	headers = append(headers, "Authorization", "Bearer "+c.token(t))
	return b.send(t, b.server.PublicHandler(), method, target, body, headers...)
}

// callInternal sends an internal request with the internal token.
func (b *bundle) callInternal(t *testing.T, method, target, body string, headers ...string) answer {
	t.Helper()
	headers = append(headers, "Authorization", "Bearer "+internalToken)
	return b.send(t, b.server.InternalHandler(), method, target, body, headers...)
}

func (b *bundle) send(t *testing.T, to http.Handler, method, target, body string, headers ...string) answer {
	t.Helper()
	var reader io.Reader = http.NoBody
	if body != "" {
		reader = strings.NewReader(body)
	}
	request := httptest.NewRequestWithContext(t.Context(), method, target, reader)
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		if headers[i] == "Content-Type" {
			request.Header.Set(headers[i], headers[i+1])
			continue
		}
		request.Header.Add(headers[i], headers[i+1])
	}
	recorder := httptest.NewRecorder()
	to.ServeHTTP(recorder, request)
	require.NotEmpty(t, recorder.Header().Get("X-Request-ID"))
	require.Equal(t, "nosniff", recorder.Header().Get("X-Content-Type-Options"))
	document.RequireDescribed(t, request, recorder)
	return answer{ResponseRecorder: recorder, t: t}
}

// count reads one number from the database.
func (b *bundle) count(t *testing.T, sql string) int {
	t.Helper()
	var n int
	require.NoError(t, b.db.QueryRow(t.Context(), sql).Scan(&n))
	return n
}

// fields is a JSON object to be.
type fields map[string]any

// registration is a valid body with an address of its own, in which the given fields replace or (nil) remove others.
func registration(changes fields) string {
	body := fields{
		"email": uuid.NewString() + "@agents.example.com", "agentType": "screener", "version": "1.4.0",
		"capabilities": []string{"resume:read"}, "owner": "talent-team", "deploymentEnv": "production",
	}
	for name, value := range changes {
		if body[name] = value; value == nil {
			delete(body, name)
		}
	}
	return encode(body)
}

func encode(value any) string {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		panic(err)
	}
	return out.String()
}

// register registers an agent with the caller's token.
func (b *bundle) register(t *testing.T, c caller, changes fields) answer {
	t.Helper()
	return b.call(t, c, http.MethodPost, agentsPath, registration(changes)).requireStatus(http.StatusCreated)
}
