package httpapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/authz"
	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/httpx"
	"github.com/sentryagent/agentidp/pkg/paging"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/services/audit/api"
	"github.com/sentryagent/agentidp/services/audit/internal/export"
	"github.com/sentryagent/agentidp/services/audit/internal/httpapi"
	"github.com/sentryagent/agentidp/services/audit/internal/merkle"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// gate is a guard that answers what it was told to.
type gate struct {
	unauthenticated, denied error
}

func (g *gate) Authenticate() gin.HandlerFunc {
	return func(c *gin.Context) {
		if g.unauthenticated != nil {
			httpx.WriteError(c, g.unauthenticated)
		}
	}
}

func (g *gate) Authorize(_ *gin.Context, resource *authz.Resource) error {
	if resource != nil {
		return errors.New("the trail is about no resource in particular")
	}
	return g.denied
}

// shelf is a store of events in memory that remembers what it was asked.
type shelf struct {
	events []trail.Event // newest first
	err    error
	filter *trail.Filter
	page   paging.Page
	// estimates makes totals estimates.
	estimates bool
}

func (s *shelf) List(_ context.Context, filter trail.Filter, page paging.Page) (paging.Listing[trail.Event], error) {
	s.filter, s.page = &filter, page
	begin := int(min(page.Offset, int64(len(s.events))))
	if page.After != nil {
		for begin < len(s.events) && s.events[begin].ID != page.After.ID {
			begin++
		}
		begin++
	}
	end := min(begin+page.Limit+1, len(s.events))
	total := page.Total
	if page.After == nil {
		total = paging.Total{Items: int64(len(s.events)), Estimate: s.estimates}
	}
	return paging.Cut(s.events[begin:end], page.Limit, total, func(e trail.Event) paging.Position {
		return paging.Position{Time: e.Timestamp, ID: e.ID}
	}), s.err
}

func (s *shelf) Get(_ context.Context, id uuid.UUID) (trail.Event, error) {
	for _, e := range s.events {
		if e.ID == id {
			return e, nil
		}
	}
	if s.err != nil {
		return trail.Event{}, s.err
	}
	return trail.Event{}, trail.ErrNotFound
}

type bundle struct {
	server *httpx.Server
	gate   *gate
	shelf  *shelf
	ledger *ledger
	log    *oracle
}

func setup(t *testing.T) *bundle {
	t.Helper()
	b := &bundle{gate: &gate{}, shelf: &shelf{}, ledger: &ledger{}, log: &oracle{}}
	server, err := httpx.NewServer(httpx.Config{InternalAPIToken: config.Secret("internal-token-of-a-test")},
		httpx.Options{Service: "audit", Telemetry: telemetry.Discard("audit"), OpenAPI: api.Spec})
	require.NoError(t, err)
	reader := trail.NewReader(b.shelf, trail.NewWindow(90), func() time.Time { return now })
	exporter := export.New(b.ledger, merkle.New(merkle.Config{Store: b.ledger}), time.Now)
	httpapi.Register(server, httpapi.Config{Reader: reader, Log: b.log, Exporter: exporter, Guard: b.gate})
	b.server = server
	return b
}

func (b *bundle) do(t *testing.T, method, target string) *httptest.ResponseRecorder {
	t.Helper()
	recorder := httptest.NewRecorder()
	request := httptest.NewRequestWithContext(t.Context(), method, target, http.NoBody)
	b.server.PublicHandler().ServeHTTP(recorder, request)
	document.RequireDescribed(t, request, recorder)
	return recorder
}

func sample(age time.Duration) trail.Event {
	agent := uuid.New()
	return trail.Event{
		ID: uuid.Must(uuid.NewV7()), Timestamp: now.Add(-age), AgentID: &agent, Action: "auth.failed", Outcome: "failure",
		Service: "token", IPAddress: "203.0.113.7", UserAgent: "curl", RequestID: "r-1",
		Metadata: json.RawMessage(`{"reason":"invalid_secret","nul":"\u0000"}`),
	}
}

// refusal is an error body.
type refusal struct {
	Code    string `json:"code"`
	Details struct {
		Errors        []apperr.FieldError `json:"errors"`
		RetentionDays int                 `json:"retentionDays"`
	} `json:"details"`
}

func decode[T any](t *testing.T, recorder *httptest.ResponseRecorder) T {
	t.Helper()
	var body T
	require.NoError(t, json.Unmarshal(recorder.Body.Bytes(), &body), recorder.Body.String())
	return body
}

func TestGetShowsEveryFieldOfAnEvent(t *testing.T) {
	t.Parallel()
	b := setup(t)
	e := sample(time.Hour)
	b.shelf.events = []trail.Event{e}

	response := b.do(t, http.MethodGet, "/api/v1/audit/"+e.ID.String())

	require.Equal(t, http.StatusOK, response.Code)
	require.JSONEq(t, `{"eventId":"`+e.ID.String()+`","timestamp":"2026-11-22T11:00:00Z","agentId":"`+e.AgentID.String()+`",
		"actorId":null,"action":"auth.failed","outcome":"failure","ipAddress":"203.0.113.7","userAgent":"curl","service":"token",
		"requestId":"r-1","metadata":{"reason":"invalid_secret","nul":"\u0000"}}`, response.Body.String())
}

func TestGetRefuses(t *testing.T) {
	t.Parallel()
	old := sample(91 * 24 * time.Hour)
	forbidden := apperr.New(apperr.Forbidden, "no").WithChallenge(`Bearer error="insufficient_scope", scope="audit:read"`)
	tests := map[string]struct {
		id   string
		set  func(b *bundle)
		code int
		want string
	}{
		"an id that is no UUID":                  {"x", nil, 400, "VALIDATION_ERROR"},
		"a UUID in upper case":                   {strings.ToUpper(old.ID.String()), nil, 400, "VALIDATION_ERROR"},
		"half of a route of another kind":        {"tile", nil, 400, "VALIDATION_ERROR"},
		"a parameter that there is not":          {uuid.NewString() + "?dry=1", nil, 400, "VALIDATION_ERROR"},
		"an unknown event":                       {uuid.NewString(), nil, 404, "AUDIT_EVENT_NOT_FOUND"},
		"an event outside the retention window":  {old.ID.String(), func(b *bundle) { b.shelf.events = []trail.Event{old} }, 404, "AUDIT_EVENT_NOT_FOUND"},
		"a malformed id before the policy":       {"x", func(b *bundle) { b.gate.denied = forbidden }, 400, "VALIDATION_ERROR"},
		"what the policy denies":                 {uuid.NewString(), func(b *bundle) { b.gate.denied = forbidden }, 403, "FORBIDDEN"},
		"an unauthenticated caller, id unlooked": {"x", func(b *bundle) { b.gate.unauthenticated = apperr.New(apperr.Unauthorized, "who") }, 401, "UNAUTHORIZED"},
		"while the store is away":                {uuid.NewString(), func(b *bundle) { b.shelf.err = apperr.Unavailable(nil) }, 503, "SERVICE_UNAVAILABLE"},
		"when the store fails":                   {uuid.NewString(), func(b *bundle) { b.shelf.err = errors.New("relation audit.events") }, 500, "INTERNAL_SERVER_ERROR"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			if test.set != nil {
				test.set(b)
			}
			response := b.do(t, http.MethodGet, "/api/v1/audit/"+test.id)
			require.Equal(t, test.code, response.Code, response.Body.String())
			require.Equal(t, test.want, decode[refusal](t, response).Code)
			require.NotContains(t, response.Body.String(), "audit.events")
		})
	}
}

func TestListPassesOnEveryFilter(t *testing.T) {
	t.Parallel()
	b := setup(t)
	agent, actor := uuid.New(), uuid.New()
	query := url.Values{
		"agentId": {agent.String()}, "actorId": {actor.String()}, "action": {"token.issued"}, "outcome": {"success"},
		"fromDate": {"2026-11-01T00:00:00+01:00"}, "toDate": {"2026-11-20"}, "page": {"3"}, "limit": {"7"},
	}

	response := b.do(t, http.MethodGet, "/api/v1/audit?"+query.Encode())

	require.Equal(t, http.StatusOK, response.Code, response.Body.String())
	f := b.shelf.filter
	require.Equal(t, agent, *f.AgentID)
	require.Equal(t, actor, *f.ActorID)
	require.Equal(t, "token.issued", *f.Action)
	require.Equal(t, "success", *f.Outcome)
	require.True(t, f.From.Equal(time.Date(2026, 10, 31, 23, 0, 0, 0, time.UTC)))
	require.False(t, f.FromIsDate)
	require.True(t, f.To.After(time.Date(2026, 11, 20, 23, 59, 59, 999_998_000, time.UTC)), "a day ends with its last microsecond")
	require.True(t, f.To.Before(time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC)))
	require.Equal(t, paging.Page{Offset: 14, Limit: 7}, b.shelf.page)
	require.JSONEq(t, `{"data":[],"total":0,"page":3,"limit":7}`, response.Body.String())
}

func TestListTakesADayOfTheWindowAsFromDate(t *testing.T) {
	t.Parallel()
	b := setup(t)
	require.Equal(t, http.StatusOK, b.do(t, http.MethodGet, "/api/v1/audit?fromDate=2026-08-24").Code)
	require.True(t, b.shelf.filter.From.Equal(now.Add(-90*24*time.Hour)), "and shows only what lies inside")
	response := b.do(t, http.MethodGet, "/api/v1/audit?fromDate=2026-08-23")
	require.Equal(t, http.StatusBadRequest, response.Code)
	body := decode[refusal](t, response)
	require.Equal(t, "RETENTION_WINDOW_EXCEEDED", body.Code)
	require.Equal(t, 90, body.Details.RetentionDays)
}

func TestListWalksByPageAndByCursor(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for i := range 5 {
		b.shelf.events = append(b.shelf.events, sample(time.Duration(i)*time.Minute))
	}
	type list struct {
		Data []struct {
			EventID uuid.UUID `json:"eventId"`
		} `json:"data"`
		Total, Page, Limit int
		NextCursor         string
	}
	var walked []uuid.UUID
	target := "/api/v1/audit?limit=2"
	for page := 1; target != ""; page++ {
		response := b.do(t, http.MethodGet, target)
		require.Equal(t, http.StatusOK, response.Code, response.Body.String())
		body := decode[list](t, response)
		require.Equal(t, page, body.Page)
		require.Equal(t, 5, body.Total)
		for _, e := range body.Data {
			walked = append(walked, e.EventID)
		}
		if target = ""; body.NextCursor != "" {
			target = "/api/v1/audit?limit=2&cursor=" + url.QueryEscape(body.NextCursor)
		}
	}
	require.Len(t, walked, 5)
	for i, e := range b.shelf.events {
		require.Equal(t, e.ID, walked[i])
	}
	second := decode[list](t, b.do(t, http.MethodGet, "/api/v1/audit?limit=2&page=2"))
	require.Equal(t, walked[2], second.Data[0].EventID)
}

func TestListSaysThatItsTotalIsAnEstimateOnEveryPage(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.shelf.events, b.shelf.estimates = []trail.Event{sample(0), sample(time.Minute)}, true
	type list struct {
		Total           int
		TotalIsEstimate bool
		NextCursor      string
	}
	first := decode[list](t, b.do(t, http.MethodGet, "/api/v1/audit?limit=1"))
	require.Equal(t, 2, first.Total)
	require.True(t, first.TotalIsEstimate)
	second := decode[list](t, b.do(t, http.MethodGet, "/api/v1/audit?limit=1&cursor="+first.NextCursor))
	require.Equal(t, list{Total: 2, TotalIsEstimate: true}, second)
}

func TestListNamesEveryParameterThatIsWrong(t *testing.T) {
	t.Parallel()
	b := setup(t)
	query := "agentId=%00&actorId=" + strings.ToUpper(uuid.NewString()) + "x&action=agent.exploded&outcome=maybe" +
		"&fromDate=yesterday&toDate=2026-13-01&page=0&limit=101&sort=asc"

	response := b.do(t, http.MethodGet, "/api/v1/audit?"+query)

	require.Equal(t, http.StatusBadRequest, response.Code)
	body := decode[refusal](t, response)
	require.Equal(t, "VALIDATION_ERROR", body.Code)
	var fields []string
	for _, e := range body.Details.Errors {
		fields = append(fields, e.Field)
	}
	require.ElementsMatch(t, []string{"agentId", "actorId", "action", "outcome", "fromDate", "toDate", "page", "limit", "sort"}, fields)
	require.Nil(t, b.shelf.filter, "the store is not asked")
}

func TestListNamesADateRangeThatIsReversedWithAllElse(t *testing.T) {
	t.Parallel()
	b := setup(t)
	response := b.do(t, http.MethodGet, "/api/v1/audit?fromDate=2026-11-20&toDate=2026-11-19&limit=0")
	require.Equal(t, http.StatusBadRequest, response.Code)
	require.ElementsMatch(t, []apperr.FieldError{
		{Field: "limit", Reason: "must be a whole number from 1 to 100"}, {Field: "fromDate", Reason: "must not be after toDate"},
	}, decode[refusal](t, response).Details.Errors)
}

func TestListRefuses(t *testing.T) {
	t.Parallel()
	requireRefusals(t, "/api/v1/audit", map[string]refusalOf{
		"fromDate after toDate":             {"?fromDate=2026-11-20&toDate=2026-11-19", nil, 400, "VALIDATION_ERROR"},
		"fromDate before the window":        {"?fromDate=2026-01-01T00:00:00Z", nil, 400, "RETENTION_WINDOW_EXCEEDED"},
		"a repeated parameter":              {"?outcome=success&outcome=failure", nil, 400, "VALIDATION_ERROR"},
		"page and cursor together":          {"?page=1&cursor=x", nil, 400, "VALIDATION_ERROR"},
		"a cursor nobody gave out":          {"?cursor=DROP%20TABLE", nil, 400, "VALIDATION_ERROR"},
		"a page past what can be counted":   {"?page=99999999999999999999", nil, 400, "VALIDATION_ERROR"},
		"what the policy denies":            {"?page=0", func(b *bundle) { b.gate.denied = apperr.New(apperr.Forbidden, "no") }, 403, "FORBIDDEN"},
		"an unauthenticated caller":         {"", func(b *bundle) { b.gate.unauthenticated = apperr.New(apperr.Unauthorized, "who") }, 401, "UNAUTHORIZED"},
		"while the store is away":           {"", func(b *bundle) { b.shelf.err = apperr.Unavailable(nil) }, 503, "SERVICE_UNAVAILABLE"},
		"a limit of the caller's is passed": {"", func(b *bundle) { b.gate.unauthenticated = apperr.New(apperr.RateLimitExceeded, "slow") }, 429, "RATE_LIMIT_EXCEEDED"},
	})
}

// refusalOf is a request and how it is refused.
type refusalOf struct {
	query string
	set   func(b *bundle)
	code  int
	want  string
}

func requireRefusals(t *testing.T, path string, refusals map[string]refusalOf) {
	t.Helper()
	for name, test := range refusals {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			if test.set != nil {
				test.set(b)
			}
			response := b.do(t, http.MethodGet, path+test.query)
			require.Equal(t, test.code, response.Code, response.Body.String())
			require.Equal(t, test.want, decode[refusal](t, response).Code)
		})
	}
}

func TestNothingWritesToTheTrail(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, target := range []string{"/api/v1/audit", "/api/v1/audit/" + uuid.NewString()} {
		for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
			response := b.do(t, method, target)
			require.Equal(t, http.StatusMethodNotAllowed, response.Code)
			require.Equal(t, "GET", response.Header().Get("Allow"))
		}
	}
}
