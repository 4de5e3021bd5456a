package httpapi_test

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/services/credentials/internal/httpapi"
)

// operational routes come with every server, and are no gin routes of this package.
var operational = []string{"GET /healthz", "GET /readyz", "GET /metrics", "GET /openapi.yaml"}

func TestTheDocumentIsValidAndItsExamplesMatchItsSchemas(t *testing.T) {
	t.Parallel()
	doc := load(t)
	require.NoError(t, doc.Validate(t.Context()))
	require.Equal(t, "3.0.3", doc.OpenAPI)
}

func TestEveryRouteIsInTheDocumentAndTheOtherWayRound(t *testing.T) {
	t.Parallel()
	parameter := regexp.MustCompile(`:(\w+)`)
	gin.SetMode(gin.ReleaseMode)
	engine := gin.New()
	routes := httpapi.New(&fakeCredentials{}, &fakeGuard{})
	routes.Public(engine)
	routes.Internal(engine.Group("/internal/v1"))
	var served []string
	for _, r := range engine.Routes() {
		served = append(served, r.Method+" "+parameter.ReplaceAllString(r.Path, "{$1}"))
	}

	var listed []string
	for path, item := range load(t).Paths.Map() {
		for method, operation := range item.Operations() {
			listed = append(listed, method+" "+path)
			require.NotEmpty(t, operation.OperationID, path)
			require.NotEmpty(t, operation.Tags, path)
			require.NotNil(t, operation.Security, path)
		}
	}
	require.ElementsMatch(t, append(served, operational...), listed)
}

func TestTheOperationalRoutesAreServed(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for _, route := range operational {
		res := f.send(t, f.internal, newRequest(t, http.MethodGet, strings.TrimPrefix(route, "GET "), ""))
		require.Equal(t, http.StatusOK, res.status, route)
	}
	require.Equal(t, http.StatusOK, f.call(t, http.MethodGet, "/healthz", "").status)
	for _, hidden := range []string{"/readyz", "/metrics", "/openapi.yaml", "/internal/v1/usage"} {
		rec := httptest.NewRecorder()
		f.public.ServeHTTP(rec, newRequest(t, http.MethodGet, hidden, ""))
		require.Equal(t, http.StatusNotFound, rec.Code, hidden)
	}
}

func TestEveryErrorOfEveryRouteIsDocumented(t *testing.T) {
	t.Parallel()
	always := []string{"400", "401", "500", "503"}
	withBody := []string{"413", "415"}
	public := []string{"403", "404", "429"}
	for path, item := range load(t).Paths.Map() {
		for method, operation := range item.Operations() {
			if slices.Contains(operational, method+" "+path) {
				continue
			}
			want := slices.Clone(always)
			if operation.RequestBody != nil {
				want = append(want, withBody...)
			}
			if strings.HasPrefix(path, "/api/v1/") {
				want = append(want, public...)
			}
			for _, status := range want {
				require.NotNil(t, operation.Responses.Value(status), "%s %s: %s", method, path, status)
			}
			for status, res := range operation.Responses.Map() {
				require.Contains(t, res.Value.Headers, "X-Request-ID", "%s %s: %s", method, path, status)
				if status < "400" {
					continue
				}
				content := res.Value.Content.Get("application/json")
				require.NotNil(t, content, "%s %s: %s", method, path, status)
				require.Equal(t, "#/components/schemas/Error", content.Schema.Ref)
				require.True(t, content.Example != nil || len(content.Examples) > 0, "%s %s: %s has no example", method, path, status)
			}
		}
	}
}
