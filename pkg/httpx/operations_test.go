package httpx_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/httpx"
	"github.com/sentryagent/agentidp/pkg/mtls"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/pkg/testkit/testca"
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

func TestASecondTokenIsAcceptedDuringARotation(t *testing.T) {
	t.Parallel()
	const other = "the-token-of-tomorrow"
	b := setup(t, func(c *httpx.Config, _ *httpx.Options) { c.InternalAPITokenAlso = other })
	b.Internal().GET("/thing", func(c *gin.Context) { c.Status(http.StatusOK) })
	for token, status := range map[string]int{
		"Bearer " + internalToken: 200, "Bearer " + other: 200, "Bearer ": 401, "Bearer " + other[1:]: 401, "Bearer " + internalToken + other: 401,
	} {
		require.Equal(t, status, b.internal("GET", "/internal/v1/thing", token).Code, token)
	}
	require.NotContains(t, b.logs.String(), other)

	cfg := httpx.Config{InternalAPIToken: internalToken, ShutdownTimeout: time.Second}
	require.NoError(t, cfg.Validate())
	cfg.InternalAPITokenAlso = "short"
	require.ErrorContains(t, cfg.Validate(), "INTERNAL_API_TOKEN_ALSO")
	require.NotContains(t, cfg.Validate().Error(), "short")
}

func TestWithTLSTheInternalAPITakesACertificateAndTheToken(t *testing.T) {
	t.Parallel()
	authority, dir := testca.NewAuthority(t), t.TempDir()
	authority.Issue(t).Write(t, dir, authority)
	set := testca.Settings(dir)
	identity, err := mtls.Open(mtls.Config{
		CertFile: set["TLS_CERT_FILE"], KeyFile: set["TLS_KEY_FILE"], CAFile: set["TLS_CA_FILE"],
	}, telemetry.Discard("test"))
	require.NoError(t, err)
	r := run(t, func(b *bundle) { b.Internal().GET("/thing", func(c *gin.Context) { c.Status(http.StatusOK) }) },
		func(_ *httpx.Config, o *httpx.Options) { o.TLS = identity })
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(authority.PEM))
	anybody := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	service := &http.Client{Transport: identity.Transport(func() *http.Transport { return &http.Transport{} })}
	t.Cleanup(func() { anybody.CloseIdleConnections(); service.CloseIdleConnections() })
	for _, tt := range []struct {
		client      *http.Client
		path, token string
		status      int
	}{
		{service, "/internal/v1/thing", internalToken, 200},
		{service, "/internal/v1/thing", "", 401},
		{anybody, "/internal/v1/thing", internalToken, 401},
		{anybody, "/internal/v1/nothing", internalToken, 401},
		{anybody, "/healthz", "", 200},
		{anybody, "/readyz", "", 200},
		{anybody, "/metrics", "", 200},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+r.InternalAddr()+tt.path, nil)
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer "+tt.token)
		res, err := tt.client.Do(req)
		require.NoError(t, err)
		body := readAll(t, res.Body)
		require.NoError(t, res.Body.Close())
		require.Equal(t, tt.status, res.StatusCode, tt.path)
		if tt.status == http.StatusUnauthorized {
			require.Contains(t, body, `"UNAUTHORIZED"`)
			require.Contains(t, res.Header.Get("WWW-Authenticate"), "Bearer")
		}
	}
	res, _ := r.fetch(t, "http://"+r.PublicAddr()+"/healthz")
	require.Equal(t, http.StatusOK, res.StatusCode, "the public listener speaks HTTP as before")
}

func TestReadinessShowsOnlyDetails(t *testing.T) {
	t.Parallel()
	b := setup(t, func(_ *httpx.Config, o *httpx.Options) {
		o.Ready = func(context.Context) error {
			cause := apperr.Unavailable(errors.New("db.internal:5432 is away")).With(map[string]any{"reason": "the schema is old"})
			return errors.Join(errors.New("redis.internal is away"), cause)
		}
	})
	w := b.internal("GET", "/readyz")
	require.Equal(t, http.StatusServiceUnavailable, w.Code)
	require.JSONEq(t, `{"code":"SERVICE_UNAVAILABLE","message":"The service is temporarily unavailable.","details":{"reason":"the schema is old"}}`, w.Body.String())
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
	changes := b.logs.Lines(t, "readiness changed")
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
