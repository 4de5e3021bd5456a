package httpapi_test

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/testkit/apidoc"
	"github.com/sentryagent/agentidp/services/credentials/api"
)

var document = apidoc.Lazily(api.Spec)

func TestTheServiceServesItsDocument(t *testing.T) {
	t.Parallel()
	document.RequireServed(t, setup(t).server, "Error")
}

// operational routes come with every server.
var operational = []string{"GET /healthz", "GET /readyz", "GET /metrics", "GET /openapi.yaml"}

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
	for name, operation := range document.Require(t).Operations() {
		if slices.Contains(operational, name) {
			continue
		}
		want := slices.Clone(always)
		if operation.RequestBody != nil {
			want = append(want, withBody...)
		}
		if strings.Contains(name, " /api/v1/") {
			want = append(want, public...)
		}
		for _, status := range want {
			require.NotNil(t, operation.Responses.Value(status), "%s: %s", name, status)
		}
		for status, res := range operation.Responses.Map() {
			require.Contains(t, res.Value.Headers, "X-Request-ID", "%s: %s", name, status)
		}
	}
}
