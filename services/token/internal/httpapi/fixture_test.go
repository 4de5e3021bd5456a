package httpapi_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/authn"
	"github.com/sentryagent/agentidp/pkg/authz"
	"github.com/sentryagent/agentidp/pkg/httpx"
	"github.com/sentryagent/agentidp/pkg/ratelimit"
	"github.com/sentryagent/agentidp/pkg/revocation"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/services/token/api"
	"github.com/sentryagent/agentidp/services/token/internal/httpapi"
	"github.com/sentryagent/agentidp/services/token/internal/issue"
	"github.com/sentryagent/agentidp/services/token/internal/keys"
)

const (
	internalToken = "internal"
	mediaForm     = "application/x-www-form-urlencoded"
)

var (
	start   = time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)
	agentID = uuid.MustParse("019aa9c0-7d52-7c3e-9b0a-5f0d3c1e8a41")
	errAway = apperr.Unavailable(errors.New("the database at db.internal is away"))
)

// bundle is the edge over fakes that note what they are asked.
type bundle struct {
	server     *httpx.Server
	issuerPath string

	issued      []issue.Request
	refused     []error
	issueErr    error
	window      ratelimit.Window
	clientErr   error
	activeErr   error
	credentials []issue.Credentials
	asked       []string
	origins     []auditevent.Origin
	asking      authn.Principal        // whose token is asked about
	askingErr   error                  // of its verification
	verdicts    [][]revocation.Verdict // that the introspector was told, each time
	answer      issue.Introspection
	answerErr   error
	holder      authn.Principal
	revocable   bool
	holderErr   error
	revoked     []authn.Principal
	revokeErr   error
	bearer      authn.Principal
	bearerErr   error
	entered     [][]revocation.Query // what the guard was to look up, each time
	enterErr    error
	policyErr   error
	resources   []*authz.Resource
	policyFor   []string
	policyPaths []string
	jwksErr     error // of any set
	storeErr    error // of a set that must be current
	jwksMaxAge  time.Duration
	truth       bool
	truthErr    error
	queries     []revocation.Query
}

func setup(tb testing.TB) *bundle {
	tb.Helper()
	return setupIssuer(tb, "https://idp.example.com")
}

func setupIssuer(tb testing.TB, issuer string) *bundle {
	tb.Helper()
	b := &bundle{
		window:     ratelimit.Window{Limit: 100, Remaining: 99, Reset: start, Allowed: true},
		jwksMaxAge: 5 * time.Minute,
		bearer:     authn.Principal{AgentID: agentID, TokenID: "jti", Scopes: []string{"tokens:read"}},
	}
	parsed, err := url.Parse(issuer)
	require.NoError(tb, err)
	b.issuerPath = parsed.Path
	b.server, err = httpx.NewServer(httpx.Config{
		PublicAddr: "127.0.0.1:0", InternalAddr: "127.0.0.1:0", InternalAPIToken: internalToken, ShutdownTimeout: time.Second,
	}, httpx.Options{Service: "token", Telemetry: telemetry.Discard("token"), OpenAPI: api.Spec})
	require.NoError(tb, err)
	require.NoError(tb, httpapi.Register(b.server, httpapi.Config{
		Issuer: b, Clients: clients{b}, Budget: budget{b}, Introspector: b, Revoker: b, Guard: b, Keys: b,
		Truth: b.check, URL: issuer,
	}))
	return b
}

func (b *bundle) Issue(_ context.Context, request issue.Request) (issue.Token, ratelimit.Window, error) {
	b.issued = append(b.issued, request)
	if err := provesNothing(request.Credentials); err != nil {
		return issue.Token{}, b.window, err
	}
	if b.issueErr != nil {
		return issue.Token{}, b.window, b.issueErr
	}
	return issue.Token{Access: "a.b.c", ExpiresIn: time.Hour, Scope: "agents:read"}, b.window, nil
}

func (b *bundle) Refused(err error) { b.refused = append(b.refused, err) }

// provesNothing refuses what no client's secret or assertion can be.
func provesNothing(credentials issue.Credentials) error {
	if credentials.Secret == "" && credentials.Assertion == "" {
		return issue.Refuse(issue.InvalidClient, "No.")
	}
	return nil
}

type clients struct{ *bundle }

func (c clients) Authenticate(_ context.Context, credentials issue.Credentials, _ auditevent.Origin) (issue.Agent, error) {
	c.credentials = append(c.credentials, credentials)
	if err := provesNothing(credentials); err != nil {
		return issue.Agent{}, err
	}
	return issue.Agent{ID: agentID, Status: issue.StatusActive}, c.clientErr
}

func (c clients) Active(context.Context, issue.Agent, auditevent.Origin) error { return c.activeErr }

type budget struct{ *bundle }

func (b budget) Spend(context.Context, uuid.UUID) (issue.Charge, error) { return issue.Charge{}, nil }
func (b budget) Look(ctx context.Context, clientID uuid.UUID) (ratelimit.Window, error) {
	return b.Request(ctx, clientID)
}

func (b budget) Request(context.Context, uuid.UUID) (ratelimit.Window, error) {
	return b.window, nil
}
func (b budget) Refund(context.Context, issue.Charge) {}
func (b budget) Untouched() ratelimit.Window          { return ratelimit.Untouched(100, start) }
func (b budget) MonthlyLimit() int64                  { return 0 }

func (b *bundle) Inquire(ctx context.Context, token string) (issue.Inquiry, error) {
	b.asked = append(b.asked, token)
	introspector := issue.NewIntrospector(issue.IntrospectorConfig{
		Verifier: verifier{b}, Events: issue.Events{Clock: func() time.Time { return start }},
	})
	return introspector.Inquire(ctx, token)
}

// verifier takes every token for one of b.asking that lasts.
type verifier struct{ *bundle }

func (v verifier) Verify(context.Context, string) (authn.Principal, error) {
	asking := v.asking
	asking.ExpiresAt = start.Add(time.Hour)
	return asking, v.askingErr
}

func (b *bundle) Introspect(
	_ context.Context, _ issue.Inquiry, verdicts []revocation.Verdict, origin auditevent.Origin,
) (issue.Introspection, error) {
	b.verdicts, b.origins = append(b.verdicts, verdicts), append(b.origins, origin)
	return b.answer, b.answerErr
}

func (b *bundle) Holder(_ context.Context, token string) (authn.Principal, bool, error) {
	b.asked = append(b.asked, token)
	return b.holder, b.revocable, b.holderErr
}

func (b *bundle) Revoke(_ context.Context, holder authn.Principal, origin auditevent.Origin) error {
	b.revoked, b.origins = append(b.revoked, holder), append(b.origins, origin)
	return b.revokeErr
}

func (b *bundle) Verify(c *gin.Context) (authn.Principal, error) {
	_, err := authn.BearerToken(c.Request.Header)
	if err = cmp.Or(err, b.bearerErr); err != nil {
		ratelimit.WriteHeaders(c.Writer.Header(), b.window)
		return authn.Principal{}, err
	}
	return b.bearer, nil
}

func (b *bundle) Enter(c *gin.Context, _ authn.Principal, others ...revocation.Query) ([]revocation.Verdict, error) {
	ratelimit.WriteHeaders(c.Writer.Header(), b.window)
	b.entered = append(b.entered, others)
	if b.enterErr != nil {
		return nil, b.enterErr
	}
	return slices.Repeat([]revocation.Verdict{revocation.Dead}, len(others)), nil
}

func (b *bundle) Authorize(c *gin.Context, resource *authz.Resource) error {
	b.policyPaths = append(b.policyPaths, c.Request.URL.Path)
	b.resources, b.policyFor = append(b.resources, resource), append(b.policyFor, "bearer")
	return b.policyErr
}

func (b *bundle) AuthorizeClient(_ *gin.Context, clientID string, resource *authz.Resource) error {
	b.resources, b.policyFor = append(b.resources, resource), append(b.policyFor, clientID)
	return b.policyErr
}

func (b *bundle) CurrentJWKS(context.Context) (keys.Document, error) {
	if b.storeErr != nil {
		return keys.Document{}, b.storeErr
	}
	return b.JWKS()
}

func (b *bundle) JWKS() (keys.Document, error) {
	body := `{"keys":[{"kty":"OKP","use":"sig","alg":"EdDSA","kid":"k","crv":"Ed25519","x":"eA"}]}`
	return keys.Document{Body: []byte(body), ETag: `"tag"`, MaxAge: b.jwksMaxAge}, b.jwksErr
}

func (b *bundle) check(_ context.Context, query revocation.Query) (bool, error) {
	b.queries = append(b.queries, query)
	return b.truth, b.truthErr
}

type reply struct {
	*httptest.ResponseRecorder
}

func (r reply) field(tb testing.TB, name string) any {
	tb.Helper()
	var fields map[string]any
	require.NoError(tb, json.Unmarshal(r.Body.Bytes(), &fields), r.Body.String())
	return fields[name]
}

// post sends a body to the public listener; headers are pairs of name and value,
// a Content-Type of "" among them takes the default away.
func (b *bundle) post(tb testing.TB, target, body string, headers ...string) reply {
	tb.Helper()
	request := httptest.NewRequestWithContext(tb.Context(), http.MethodPost, target, strings.NewReader(body))
	request.Header.Set("Content-Type", mediaForm)
	for i := 0; i+1 < len(headers); i += 2 {
		if headers[i] == "Content-Type" {
			request.Header.Del(headers[i])
			if headers[i+1] == "" {
				continue
			}
		}
		request.Header.Add(headers[i], headers[i+1])
	}
	return b.serve(tb, b.server.PublicHandler(), request)
}

func (b *bundle) get(tb testing.TB, handler http.Handler, target string, headers ...string) reply {
	tb.Helper()
	request := httptest.NewRequestWithContext(tb.Context(), http.MethodGet, target, http.NoBody)
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Add(headers[i], headers[i+1])
	}
	return b.serve(tb, handler, request)
}

func (b *bundle) serve(tb testing.TB, handler http.Handler, request *http.Request) reply {
	tb.Helper()
	recorder := httptest.NewRecorder()
	path := strings.ReplaceAll(request.URL.Path, b.issuerPath, "") // the document has each route once
	handler.ServeHTTP(recorder, request)
	document.RequireDescribed(tb, httptest.NewRequestWithContext(tb.Context(), request.Method, path, http.NoBody), recorder)
	return reply{recorder}
}
