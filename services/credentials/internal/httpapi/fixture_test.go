package httpapi_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/authz"
	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/httpx"
	"github.com/sentryagent/agentidp/pkg/paging"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/services/credentials/api"
	"github.com/sentryagent/agentidp/services/credentials/internal/httpapi"
	"github.com/sentryagent/agentidp/services/credentials/internal/secret"
)

const internalToken = "internal-token-of-the-tests"

var (
	agentID      = uuid.MustParse("0190c3a4-5b6d-7c11-8f0e-2f3b1d9a7c10")
	credentialID = uuid.MustParse("0190c3a4-8a11-7b3e-9c55-0f1e2d3c4b5a")
	created      = time.Date(2026, 11, 22, 9, 14, 3, 120518000, time.UTC)

	credentialsPath = "/api/v1/agents/" + agentID.String() + "/credentials"
	credentialPath  = credentialsPath + "/" + credentialID.String()
	rotatePath      = credentialPath + "/rotate"
)

// fixture is the whole HTTP side over a domain and a guard that say what a test
// tells them to. Every response is held against the OpenAPI document.
type fixture struct {
	domain   *fakeCredentials
	guard    *fakeGuard
	public   http.Handler
	internal http.Handler
	server   *httpx.Server
}

func setup(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{domain: &fakeCredentials{}, guard: &fakeGuard{}}
	server, err := httpx.NewServer(httpx.Config{InternalAPIToken: internalToken}, httpx.Options{
		Service: "credentials", Telemetry: telemetry.Discard("credentials"), OpenAPI: api.Spec,
	})
	require.NoError(t, err)
	httpapi.Register(server, httpapi.Config{Credentials: f.domain, Guard: f.guard})
	f.server, f.public, f.internal = server, server.PublicHandler(), server.InternalHandler()
	return f
}

// response is what came back.
type response struct {
	status int
	header http.Header
	body   string
}

func (r response) json(t *testing.T) map[string]any {
	t.Helper()
	var body map[string]any
	require.NoError(t, json.Unmarshal([]byte(r.body), &body), r.body)
	return body
}

// failing lists the fields of a validation error, in order.
func (r response) failing(t *testing.T) []string {
	t.Helper()
	require.Equal(t, http.StatusBadRequest, r.status, r.body)
	body := r.json(t)
	require.Equal(t, string(apperr.ValidationError), body["code"])
	var fields []string
	for _, e := range body["details"].(map[string]any)["errors"].([]any) {
		fields = append(fields, e.(map[string]any)["field"].(string))
	}
	return fields
}

// call sends a request to the public side; a body is JSON.
func (f *fixture) call(t *testing.T, method, target, body string) response {
	t.Helper()
	return f.send(t, f.public, newRequest(t, method, target, body))
}

// callInternal sends a request with the internal token.
func (f *fixture) callInternal(t *testing.T, method, target, body string) response {
	t.Helper()
	req := newRequest(t, method, target, body)
	req.Header.Set("Authorization", "Bearer "+internalToken)
	return f.send(t, f.internal, req)
}

func newRequest(t *testing.T, method, target, body string) *http.Request {
	t.Helper()
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	req := httptest.NewRequestWithContext(t.Context(), method, target, reader)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	return req
}

func (f *fixture) send(t *testing.T, to http.Handler, req *http.Request) response {
	t.Helper()
	rec := httptest.NewRecorder()
	to.ServeHTTP(rec, req)
	res := response{status: rec.Code, header: rec.Header(), body: rec.Body.String()}
	require.NotEmpty(t, res.header.Get("X-Request-ID"))
	document.RequireDescribed(t, req, rec)
	return res
}

// fakeGuard admits everybody unless it is told otherwise, and keeps what it was asked.
type fakeGuard struct {
	refuse error // by Authenticate
	deny   error // by Authorize
	asked  []authz.Resource
}

var _ httpapi.Guard = (*fakeGuard)(nil)

func (g *fakeGuard) Authenticate() gin.HandlerFunc {
	return func(c *gin.Context) {
		if g.refuse != nil {
			httpx.WriteError(c, g.refuse)
			return
		}
		c.Next()
	}
}

func (g *fakeGuard) Authorize(_ *gin.Context, res *authz.Resource) error {
	g.asked = append(g.asked, *res)
	return g.deny
}

// fakeCredentials answers what it was given, and keeps what it was asked.
type fakeCredentials struct {
	issued    secret.Issued
	exists    bool
	listing   paging.Listing[secret.Credential]
	verdict   secret.Verdict
	plausible []bool
	err       error

	calls []call
}

// call is one call of the domain with its arguments.
type call struct {
	method       string
	agentID      uuid.UUID
	credentialID uuid.UUID
	expiresAt    *time.Time
	grace        time.Duration
	status       *secret.Status
	page         paging.Page
	onlyIfNone   bool
	presented    string
	uses         []secret.Use
	screened     []secret.Presented
}

var _ httpapi.Credentials = (*fakeCredentials)(nil)

func (d *fakeCredentials) note(c call) { d.calls = append(d.calls, c) }

func (d *fakeCredentials) Create(_ context.Context, agentID uuid.UUID, expiresAt *time.Time, _ auditevent.Origin) (secret.Issued, error) {
	d.note(call{method: "create", agentID: agentID, expiresAt: expiresAt})
	return d.issued, d.err
}

func (d *fakeCredentials) CreateForOperator(_ context.Context, wanted secret.ForOperator, _ auditevent.Origin) (secret.Issued, bool, error) {
	d.note(call{method: "operator", agentID: wanted.AgentID, credentialID: wanted.CredentialID, onlyIfNone: wanted.OnlyIfNone})
	return d.issued, d.exists, d.err
}

func (d *fakeCredentials) List(_ context.Context, agentID uuid.UUID, status *secret.Status, page paging.Page) (paging.Listing[secret.Credential], error) {
	d.note(call{method: "list", agentID: agentID, status: status, page: page})
	return d.listing, d.err
}

func (d *fakeCredentials) Rotate(_ context.Context, agentID, credentialID uuid.UUID, grace time.Duration, _ auditevent.Origin) (secret.Issued, error) {
	d.note(call{method: "rotate", agentID: agentID, credentialID: credentialID, grace: grace})
	return d.issued, d.err
}

func (d *fakeCredentials) Revoke(_ context.Context, agentID, credentialID uuid.UUID, _ auditevent.Origin) error {
	d.note(call{method: "revoke", agentID: agentID, credentialID: credentialID})
	return d.err
}

func (d *fakeCredentials) Verify(_ context.Context, clientID uuid.UUID, presented config.Secret) (secret.Verdict, error) {
	d.note(call{method: "verify", agentID: clientID, presented: presented.Reveal()})
	return d.verdict, d.err
}

func (d *fakeCredentials) Screen(_ context.Context, presented []secret.Presented) ([]bool, error) {
	d.note(call{method: "screen", screened: presented})
	return d.plausible, d.err
}

func (d *fakeCredentials) RecordUses(_ context.Context, uses []secret.Use) error {
	d.note(call{method: "use", uses: uses})
	return d.err
}

func issued() secret.Issued {
	return secret.Issued{
		Credential: secret.Credential{ID: credentialID, AgentID: agentID, Status: secret.Active, CreatedAt: created},
		Secret:     secret.Generate(),
	}
}
