package httpx_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/httpx"
)

func (b *bundle) internal(method, path string, authorization ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, nil)
	for _, value := range authorization {
		r.Header.Add("Authorization", value)
	}
	return answer(b.InternalHandler(), r)
}

func TestTheInternalAPIIsBehindItsToken(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.Internal().GET("/thing", func(c *gin.Context) { c.String(http.StatusOK, "secret") })
	right := "Bearer " + internalToken
	tests := []struct {
		name, method, path string
		authorization      []string
		status             int
	}{
		{"the right token", "GET", "/thing", []string{right}, 200},
		{"none", "GET", "/thing", nil, 401},
		{"an empty one", "GET", "/thing", []string{""}, 401},
		{"a wrong one", "GET", "/thing", []string{"Bearer wrong"}, 401},
		{"the beginning of it", "GET", "/thing", []string{right[:len(right)-1]}, 401},
		{"more than it", "GET", "/thing", []string{right + "x"}, 401},
		{"another scheme", "GET", "/thing", []string{"Basic " + internalToken}, 401},
		{"twice", "GET", "/thing", []string{right, right}, 401},
		{"an unknown route, without it", "GET", "/nothing", nil, 401},
		{"a wrong method, without it", "DELETE", "/thing", nil, 401},
		{"an unknown route, with it", "GET", "/nothing", []string{right}, 404},
		{"a wrong method, with it", "DELETE", "/thing", []string{right}, 405},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := b.internal(tt.method, "/internal/v1"+tt.path, tt.authorization...)
			require.Equal(t, tt.status, w.Code)
			require.Equal(t, tt.status == 200, w.Body.String() == "secret")
			if tt.status == 401 {
				require.Equal(t, "UNAUTHORIZED", decodeError(t, w).Code)
				require.Contains(t, w.Header().Get("WWW-Authenticate"), "Bearer")
				require.Empty(t, w.Header().Get("Allow"), "which routes exist is not disclosed")
			}
		})
	}
	require.NotContains(t, b.logs.String(), internalToken)
}

func TestReadiness(t *testing.T) {
	t.Parallel()
	var failure error
	b := setup(t, func(_ *httpx.Config, o *httpx.Options) {
		o.Ready = func(ctx context.Context) error {
			_, bounded := ctx.Deadline()
			require.True(t, bounded)
			return failure
		}
	})
	require.Equal(t, http.StatusOK, b.internal("GET", "/readyz").Code)

	failure = errors.New("db.internal:5432 is away")
	for range 3 {
		w := b.internal("GET", "/readyz")
		require.Equal(t, http.StatusServiceUnavailable, w.Code)
		require.Equal(t, "SERVICE_UNAVAILABLE", decodeError(t, w).Code)
		require.NotContains(t, w.Body.String(), "db.internal")
		require.Equal(t, "1", w.Header().Get("Retry-After"))
	}
	changes := b.logs.lines(t, "readiness changed")
	require.Len(t, changes, 2, "a line when it changes, not at every probe")
	require.Contains(t, changes[1]["reason"], "db.internal")
	require.Equal(t, http.StatusOK, b.internal("GET", "/healthz").Code, "the process itself is well")
	require.Equal(t, http.StatusOK, setup(t).internal("GET", "/readyz").Code)
}

func TestOperationalRoutes(t *testing.T) {
	t.Parallel()
	b := setup(t, func(_ *httpx.Config, o *httpx.Options) { o.OpenAPI = []byte("openapi: 3.0.3\n") })
	b.get("/healthz")
	w := b.internal("GET", "/metrics")
	require.Equal(t, http.StatusOK, w.Code)
	require.Contains(t, w.Body.String(), `agentidp_http_requests_total{method="GET",path="/healthz",status_code="200"} 1`)

	w = b.internal("GET", "/openapi.yaml")
	require.Equal(t, "openapi: 3.0.3\n", w.Body.String())
	require.Equal(t, "application/yaml", w.Header().Get("Content-Type"))
	require.Equal(t, http.StatusNotFound, setup(t).internal("GET", "/openapi.yaml").Code)

	require.Equal(t, http.StatusOK, b.internal("HEAD", "/healthz").Code)
	require.Equal(t, http.StatusOK, answer(b.PublicHandler(), httptest.NewRequest(http.MethodHead, "/healthz", nil)).Code)
}

func TestProfilesAreOffByDefault(t *testing.T) {
	t.Parallel()
	require.Equal(t, http.StatusNotFound, setup(t).internal("GET", "/debug/pprof/").Code)
	b := setup(t, func(c *httpx.Config, _ *httpx.Options) { c.PProf = true })
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/cmdline"} {
		require.Equal(t, http.StatusOK, b.internal("GET", path).Code, path)
	}
	require.Equal(t, http.StatusNotFound, b.get("/debug/pprof/").Code, "never on the public listener")
}
