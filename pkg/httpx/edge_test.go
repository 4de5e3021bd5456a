package httpx_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/httpx"
	"github.com/sentryagent/agentidp/pkg/telemetry"
)

func TestARequestKeepsItsIDIfThatIsFit(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.Public().GET("/id", func(c *gin.Context) {
		c.String(http.StatusOK, telemetry.RequestID(c.Request.Context()))
	})
	tests := []struct {
		name string
		ids  []string
		kept bool
	}{
		{"a plain id", []string{"req-1_~!"}, true},
		{"one of 128 characters", []string{strings.Repeat("x", 128)}, true},
		{"none", nil, false},
		{"an empty one", []string{""}, false},
		{"one of 129 characters", []string{strings.Repeat("x", 129)}, false},
		{"one with a space", []string{"a b"}, false},
		{"one with a tab", []string{"a\tb"}, false},
		{"one with DEL", []string{"a\x7f"}, false},
		{"one that is not ASCII", []string{"é"}, false},
		{"two of them", []string{"a", "b"}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := httptest.NewRequest(http.MethodGet, "/id", nil)
			for _, id := range tt.ids {
				r.Header.Add("X-Request-ID", id)
			}
			w := answer(b.PublicHandler(), r)
			got := w.Header().Get("X-Request-ID")
			require.Equal(t, got, w.Body.String(), "the handler sees the id that the client sees")
			if tt.kept {
				require.Equal(t, tt.ids[0], got)
				return
			}
			_, err := uuid.Parse(got)
			require.NoError(t, err)
		})
	}
}

func TestEveryResponseHasTheSecurityHeaders(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.Public().GET("/panic", func(*gin.Context) { panic("boom") })
	b.Public().GET("/public", func(c *gin.Context) { c.Header("Cache-Control", "public, max-age=300"); c.Status(http.StatusOK) })
	for _, path := range []string{"/healthz", "/nowhere", "/panic"} {
		w := b.get(path)
		require.Equal(t, "nosniff", w.Header().Get("X-Content-Type-Options"), path)
		require.Equal(t, "default-src 'none'", w.Header().Get("Content-Security-Policy"), path)
		require.Equal(t, "no-referrer", w.Header().Get("Referrer-Policy"), path)
		require.Equal(t, "no-store", w.Header().Get("Cache-Control"), path)
		require.NotEmpty(t, w.Header().Get("X-Request-ID"), path)
		require.Empty(t, w.Header().Get("Strict-Transport-Security"), "off where there is no TLS")
	}
	require.Equal(t, "public, max-age=300", b.get("/public").Header().Get("Cache-Control"))

	secure := setup(t, func(c *httpx.Config, _ *httpx.Options) { c.HSTS = true })
	require.Contains(t, secure.get("/healthz").Header().Get("Strict-Transport-Security"), "max-age=")
}

func TestUnknownRoutesAndMethods(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.Public().GET("/things/:id", func(c *gin.Context) { c.String(http.StatusOK, c.Param("id")) })
	b.Public().DELETE("/things/:id", func(c *gin.Context) { c.Status(http.StatusNoContent) })
	tests := []struct {
		method, path string
		status       int
		code, allow  string
	}{
		{"GET", "/nothing", 404, "NOT_FOUND", ""},
		{"GET", "/", 404, "NOT_FOUND", ""},
		{"GET", "/things/1/", 404, "NOT_FOUND", ""},
		{"GET", "/THINGS/1", 404, "NOT_FOUND", ""},
		{"GET", "//things/1", 404, "NOT_FOUND", ""},
		{"GET", "/readyz", 404, "NOT_FOUND", ""},
		{"GET", "/metrics", 404, "NOT_FOUND", ""},
		{"GET", "/openapi.yaml", 404, "NOT_FOUND", ""},
		{"GET", "/internal/v1/anything", 404, "NOT_FOUND", ""},
		{"PUT", "/things/1", 405, "METHOD_NOT_ALLOWED", "DELETE, GET"},
		{"BREW", "/things/1", 405, "METHOD_NOT_ALLOWED", "DELETE, GET"},
		{"POST", "/healthz", 405, "METHOD_NOT_ALLOWED", "GET, HEAD"},
	}
	for _, tt := range tests {
		t.Run(tt.method+" "+tt.path, func(t *testing.T) {
			t.Parallel()
			w := answer(b.PublicHandler(), httptest.NewRequest(tt.method, tt.path, nil))
			require.Equal(t, tt.status, w.Code)
			require.Equal(t, tt.code, decodeError(t, w).Code)
			allowed := strings.Split(w.Header().Get("Allow"), ", ")
			require.ElementsMatch(t, strings.Split(tt.allow, ", "), allowed)
		})
	}
	escaped := b.get("/things/a%2Fb")
	require.Equal(t, "a/b", escaped.Body.String(), "an escaped slash makes no route")
}

func TestAFailureTellsTheClientNothingInternal(t *testing.T) {
	t.Parallel()
	b := setup(t)
	secret := errors.New("pq: connection to db.internal:5432 as registry_app refused")
	b.Public().GET("/unknown", handler(func(*gin.Context) error { return fmt.Errorf("list agents: %w", secret) }))
	b.Public().GET("/unavailable", handler(func(*gin.Context) error { return apperr.Unavailable(secret) }))
	b.Public().GET("/panic", func(*gin.Context) { panic(secret) })
	b.Public().GET("/late", func(c *gin.Context) { c.String(http.StatusOK, "half"); httpx.WriteError(c, secret) })

	for path, want := range map[string]struct {
		status int
		code   string
	}{
		"/unknown": {500, "INTERNAL_SERVER_ERROR"}, "/unavailable": {503, "SERVICE_UNAVAILABLE"}, "/panic": {500, "INTERNAL_SERVER_ERROR"},
	} {
		w := b.get(path)
		require.Equal(t, want.status, w.Code, path)
		require.Equal(t, want.code, decodeError(t, w).Code, path)
		require.NotContains(t, fmt.Sprint(w.Body.String(), w.Header()), "registry_app", path)
	}
	require.Equal(t, "1", b.get("/unavailable").Header().Get("Retry-After"))
	require.Equal(t, "half", b.get("/late").Body.String(), "a response that has begun stays as it is")

	lines := b.logs.Lines(t, "request")
	require.Len(t, lines, 5, "one line per request")
	for _, line := range lines {
		if path := line["path"]; path != "/late" {
			require.Equal(t, "ERROR", line["level"], path)
			require.Contains(t, line["error"], "registry_app", path)
			require.Equal(t, path == "/panic", line["stack"] != nil, path)
		}
	}
}

func TestAPanicInTheMiddleOfAResponseCutsIt(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.Public().GET("/half", func(c *gin.Context) { c.String(http.StatusOK, "half"); panic("boom") })
	b.Public().GET("/abort", func(*gin.Context) { panic(http.ErrAbortHandler) })
	require.PanicsWithValue(t, http.ErrAbortHandler, func() { b.get("/half") })
	require.PanicsWithValue(t, http.ErrAbortHandler, func() { b.get("/abort") })
	require.Len(t, b.logs.Lines(t, "request"), 2)
}

func TestErrorsCarryTheirHeaders(t *testing.T) {
	t.Parallel()
	b := setup(t)
	fail := func(path string, err error) { b.Public().GET(path, handler(func(*gin.Context) error { return err })) }
	fail("/anonymous", apperr.New(apperr.Unauthorized, "Who?"))
	fail("/challenge", apperr.New(apperr.Forbidden, "No.").WithChallenge(`Bearer error="insufficient_scope"`))
	fail("/limit", apperr.New(apperr.RateLimitExceeded, "Slow.").WithRetryAfter(1500*time.Millisecond))
	fail("/limit-now", apperr.New(apperr.RateLimitExceeded, "Slow."))
	b.Public().GET("/tagged", handler(func(c *gin.Context) error {
		c.Header("ETag", `"1"`)
		c.Header("Cache-Control", "public")
		return apperr.New(apperr.AgentNotFound, "No.")
	}))

	require.Equal(t, `Bearer realm="agentidp"`, b.get("/anonymous").Header().Get("WWW-Authenticate"))
	require.Equal(t, `Bearer error="insufficient_scope"`, b.get("/challenge").Header().Get("WWW-Authenticate"))
	require.Equal(t, "2", b.get("/limit").Header().Get("Retry-After"), "rounded up")
	require.Equal(t, "1", b.get("/limit-now").Header().Get("Retry-After"))
	w := b.get("/tagged")
	require.Empty(t, w.Header().Get("ETag"))
	require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
}

func TestAFloodOfRequestsThatAreTurnedAwayDoesNotFloodTheLog(t *testing.T) {
	t.Parallel()
	const sent, served = 2000, 150
	b := setup(t)
	b.Public().GET("/refused", func(c *gin.Context) { c.Status(http.StatusTooManyRequests) })
	b.Public().GET("/served", func(c *gin.Context) { c.Status(http.StatusOK) })
	for range sent {
		b.get("/refused")
	}
	for range served {
		b.get("/served")
	}
	lines := b.logs.Lines(t, "request")
	logged, unlogged, ok := 0, 0.0, 0
	for _, line := range lines {
		if line["path"] == "/served" {
			ok++
		} else {
			logged++
		}
		if n, has := line["unlogged"]; has {
			unlogged += n.(float64)
		}
	}
	require.Equal(t, served, ok, "what is served has a line each")
	require.Less(t, logged, sent)
	require.InDelta(t, sent, float64(logged)+unlogged, 0, "and the others are told the number of")
}

func TestTheAccessLogHasNoQuery(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.Public().GET("/things/:id", func(c *gin.Context) { c.Status(http.StatusOK) })
	b.get("/things/7?client_secret=sk_live_hunter2", "X-Request-ID", "req-9", "Authorization", "Bearer hunter2", "Traceparent",
		"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	lines := b.logs.Lines(t, "request")
	require.Len(t, lines, 1)
	require.NotContains(t, b.logs.String(), "hunter2")
	require.Equal(t, "/things/7", lines[0]["path"])
	require.Equal(t, "/things/:id", lines[0]["route"])
	require.Equal(t, "GET", lines[0]["method"])
	require.InDelta(t, 200, lines[0]["status"], 0)
	require.Equal(t, "192.0.2.1", lines[0]["client_ip"])
	require.Equal(t, "req-9", lines[0]["request_id"])
	require.Equal(t, "4bf92f3577b34da6a3ce929d0e0e4736", lines[0]["trace_id"], "without tracing the caller's trace is still named")

	b.get("/" + strings.Repeat("%ff", 2000))
	lines = b.logs.Lines(t, "request")
	require.Less(t, len(fmt.Sprint(lines[1]["path"])), 2000)

	b.Public().GET("/refused/:id", func(c *gin.Context) {
		_ = c.Error(errors.New("no such id: " + c.Param("id")))
		c.Status(http.StatusInternalServerError)
	})
	for _, misplaced := range []string{"sk_live_hunter2", "eyJhbGci.eyJpc3Mi.hunter2", strings.Repeat("x", 500) + "sk_live_hunter2"} {
		b.get("/things/" + misplaced)
		b.get("/refused/" + misplaced)
	}
	require.NotContains(t, b.logs.String(), "hunter2", "nor a secret or a token where an id belongs")
	require.Contains(t, b.logs.String(), "/things/[redacted]")
	require.Contains(t, b.logs.String(), "no such id: [redacted]")

	before := len(b.logs.Lines(t, "request"))
	b.get("/healthz")
	require.Len(t, b.logs.Lines(t, "request"), before, "probes are not worth a line")
}

func TestRequestsAreCountedByRoute(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.Public().GET("/things/:id", func(c *gin.Context) { c.Status(http.StatusOK) })
	b.get("/things/1")
	b.get("/things/2")
	b.get("/made-up-1")
	b.get("/made-up-2")
	answer(b.PublicHandler(), httptest.NewRequest("BREW", "/coffee", nil))

	count := b.tel.Metrics.HTTPRequests
	require.InDelta(t, 2, testutil.ToFloat64(count.WithLabelValues("GET", "/things/:id", "200")), 0)
	require.InDelta(t, 2, testutil.ToFloat64(count.WithLabelValues("GET", "unmatched", "404")), 0)
	require.InDelta(t, 1, testutil.ToFloat64(count.WithLabelValues("OTHER", "unmatched", "404")), 0)
	require.Equal(t, 3, testutil.CollectAndCount(count), "callers cannot make up time series")
	require.Equal(t, 3, testutil.CollectAndCount(b.tel.Metrics.HTTPDuration))
}

func TestSpansAreNamedAfterTheRoute(t *testing.T) {
	t.Parallel()
	spans := tracetest.NewSpanRecorder()
	b := setup(t, func(_ *httpx.Config, o *httpx.Options) {
		o.Telemetry.Tracer, o.Telemetry.Tracing = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)), true
	})
	b.Public().GET("/things/:id", func(c *gin.Context) { c.Status(http.StatusOK) })
	b.get("/things/7?client_secret=hunter2", "Traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	b.get("/healthz")
	require.Len(t, spans.Ended(), 1, "probes make no spans")
	b.get("/things/sk_live_hunter2")
	require.NotContains(t, fmt.Sprint(spans.Ended()[1].Attributes()), "hunter2")
	require.Contains(t, fmt.Sprint(spans.Ended()[1].Attributes()), "/things/[redacted]")

	span := spans.Ended()[0]
	require.Equal(t, "GET /things/:id", span.Name())
	require.Equal(t, "4bf92f3577b34da6a3ce929d0e0e4736", span.SpanContext().TraceID().String())
	require.NotContains(t, fmt.Sprint(span.Attributes()), "hunter2")
	require.Equal(t, span.SpanContext().TraceID().String(), b.logs.Lines(t, "request")[0]["trace_id"])
}

func TestARequestThatIsNotUTF8TakesNoSpansAlong(t *testing.T) {
	t.Parallel()
	sent := make(chan []byte, 1)
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		sent <- body
	}))
	t.Cleanup(collector.Close)
	tel, stop, err := telemetry.New(t.Context(), telemetry.Config{LogLevel: "error", OTLPEndpoint: collector.URL}, "x")
	require.NoError(t, err)
	b := setup(t, func(_ *httpx.Config, o *httpx.Options) { o.Telemetry = tel })
	b.Public().GET("/things/:id", func(c *gin.Context) { c.Status(http.StatusOK) })
	b.get("/things/1")
	b.get("/things/%ff", "User-Agent", "agent\xff", "X-Forwarded-For", "there\xff")
	request := httptest.NewRequest(http.MethodGet, "/things/3", http.NoBody)
	request.Host = "host\xff" // as it is of "GET http://host%ff/things/3"
	answer(b.PublicHandler(), request)
	require.NoError(t, stop(t.Context()))
	require.Len(t, sent, 1)
	body := <-sent
	require.Equal(t, 3, bytes.Count(body, []byte("GET /things/:id")))
	for _, text := range []string{"agent", "there", "host"} {
		require.Contains(t, string(body), text+"\ufffd")
	}
}

func TestTheClientsAddress(t *testing.T) {
	t.Parallel()
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	tests := []struct {
		name, peer string
		forwarded  []string
		want       string
	}{
		{"a direct client", "203.0.113.5:999", nil, "203.0.113.5"},
		{"a direct client that claims another address", "203.0.113.5:999", []string{"1.2.3.4"}, "203.0.113.5"},
		{"behind a proxy", "10.0.0.1:999", []string{"1.2.3.4"}, "1.2.3.4"},
		{"behind two proxies", "10.0.0.1:999", []string{"1.2.3.4, 10.0.0.2"}, "1.2.3.4"},
		{"behind a proxy, with a claim", "10.0.0.1:999", []string{"6.6.6.6, 1.2.3.4"}, "1.2.3.4"},
		{"a proxy that adds a line of its own", "10.0.0.1:999", []string{"6.6.6.6", "1.2.3.4"}, "1.2.3.4"},
		{"a malformed claim", "10.0.0.1:999", []string{"<script>, 1.2.3.4"}, "1.2.3.4"},
		{"a malformed last entry", "10.0.0.1:999", []string{"1.2.3.4, nonsense"}, "10.0.0.1"},
		{"a malformed entry between proxies", "10.0.0.1:999", []string{"1.2.3.4, unknown, 10.0.0.2"}, "10.0.0.2"},
		{"empty entries", "10.0.0.1:999", []string{" , 1.2.3.4, ,"}, "1.2.3.4"},
		{"an empty header", "10.0.0.1:999", []string{""}, "10.0.0.1"},
		{"no header", "10.0.0.1:999", nil, "10.0.0.1"},
		{"only proxies", "10.0.0.1:999", []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3"},
		{"an entry with a port", "10.0.0.1:999", []string{"1.2.3.4:5678"}, "1.2.3.4"},
		{"IPv6", "[fd00::1]:999", []string{"2001:db8::1"}, "2001:db8::1"},
		{"IPv6 in brackets", "[fd00::1]:999", []string{"[2001:db8::1]"}, "2001:db8::1"},
		{"IPv6 with a port", "[fd00::1]:999", []string{"[2001:db8::1]:443"}, "2001:db8::1"},
		{"a mapped proxy and client", "[::ffff:10.0.0.1]:999", []string{"::ffff:1.2.3.4"}, "1.2.3.4"},
		{"an address with a zone", "[fe80::1%eth0]:999", nil, "fe80::1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, func(c *httpx.Config, _ *httpx.Options) { c.TrustedProxies = trusted })
			b.Public().GET("/", func(c *gin.Context) { c.String(http.StatusOK, c.RemoteIP()) })
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.RemoteAddr = tt.peer
			r.Header.Set("X-Real-IP", "9.9.9.9")
			for _, line := range tt.forwarded {
				r.Header.Add("X-Forwarded-For", line)
			}
			require.Equal(t, tt.want, answer(b.PublicHandler(), r).Body.String())
		})
	}
}

func TestNobodyIsTrustedByDefault(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.Public().GET("/", func(c *gin.Context) { c.String(http.StatusOK, c.RemoteIP()) })
	require.Equal(t, "192.0.2.1", b.get("/", "X-Forwarded-For", "1.2.3.4").Body.String())
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.RemoteAddr = "@" // a unix socket
	require.Empty(t, answer(b.PublicHandler(), r).Body.String())
}

func TestAProxyThatMayBeMissingInTheSettingsIsWarnedOfOnce(t *testing.T) {
	t.Parallel()
	const message = "X-Forwarded-For is not believed: its sender is not in TRUSTED_PROXIES; " +
		"if that is a proxy, all its clients count as one address"
	b := setup(t)
	b.get("/healthz")
	require.Empty(t, b.logs.Lines(t, message))
	for range 3 {
		b.get("/healthz", "X-Forwarded-For", "1.2.3.4")
	}
	lines := b.logs.Lines(t, message)
	require.Len(t, lines, 1)
	require.Equal(t, "WARN", lines[0]["level"])
	require.Equal(t, "192.0.2.1", lines[0]["peer"])

	b = setup(t, func(c *httpx.Config, _ *httpx.Options) {
		c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	})
	b.get("/healthz", "X-Forwarded-For", "1.2.3.4")
	require.Empty(t, b.logs.Lines(t, message))
}

func TestCORS(t *testing.T) {
	t.Parallel()
	const origin = "https://console.example"
	preflight := func(b *bundle, from string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(http.MethodOptions, "/healthz", nil)
		r.Header.Set("Origin", from)
		r.Header.Set("Access-Control-Request-Method", "GET")
		return answer(b.PublicHandler(), r)
	}
	off := setup(t)
	require.Empty(t, off.get("/healthz", "Origin", origin).Header().Get("Access-Control-Allow-Origin"))
	require.Equal(t, http.StatusMethodNotAllowed, preflight(off, origin).Code)

	on := setup(t, func(c *httpx.Config, _ *httpx.Options) { c.CORSAllowedOrigins = []string{origin} })
	require.Equal(t, origin, on.get("/healthz", "Origin", origin).Header().Get("Access-Control-Allow-Origin"))
	require.Equal(t, "Origin", on.get("/healthz").Header().Get("Vary"))
	require.Empty(t, on.get("/healthz", "Origin", "https://evil.example").Header().Get("Access-Control-Allow-Origin"))
	w := preflight(on, origin)
	require.Equal(t, http.StatusNoContent, w.Code)
	require.Contains(t, w.Header().Get("Access-Control-Allow-Headers"), "Authorization")
	require.Contains(t, w.Header().Get("Access-Control-Allow-Methods"), "PUT, PATCH")
	require.Equal(t, http.StatusMethodNotAllowed, preflight(on, "https://evil.example").Code)

	all := setup(t, func(c *httpx.Config, _ *httpx.Options) { c.CORSAllowedOrigins = []string{"*"} })
	require.Equal(t, "*", all.get("/healthz", "Origin", origin).Header().Get("Access-Control-Allow-Origin"))
}

func TestNoStoreIsForOldCachesToo(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.Public().GET("/secret", func(c *gin.Context) { httpx.NoStore(c); httpx.JSON(c, http.StatusOK, "x") })
	w := b.get("/secret")
	require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
	require.Equal(t, "no-cache", w.Header().Get("Pragma"))
	require.Equal(t, `"x"`, w.Body.String())
}

func TestWhatCannotBeEncodedIsAnInternalError(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.Public().GET("/bad", func(c *gin.Context) { httpx.JSON(c, http.StatusOK, make(chan int)) })
	b.Public().GET("/nil", func(c *gin.Context) { httpx.WriteError(c, nil); c.Status(http.StatusTeapot) })
	require.Equal(t, http.StatusInternalServerError, b.get("/bad").Code)
	require.Equal(t, http.StatusTeapot, b.get("/nil").Code, "no error is no answer")
}

func TestSettingsThatCannotWorkAreRefused(t *testing.T) {
	t.Parallel()
	good := httpx.Config{InternalAPIToken: internalToken, ShutdownTimeout: time.Second, CORSAllowedOrigins: []string{"*", "https://a.example:8443"}}
	require.NoError(t, good.Validate())
	bad := httpx.Config{
		InternalAPIToken: "short", DrainDelay: -time.Second, ShutdownTimeout: -time.Minute,
		CORSAllowedOrigins: []string{"https://a.example/", "nowhere"},
	}
	err := bad.Validate()
	for _, want := range []string{"INTERNAL_API_TOKEN", "DRAIN_DELAY", "SHUTDOWN_TIMEOUT", "https://a.example/", "nowhere"} {
		require.ErrorContains(t, err, want)
	}
	require.NotContains(t, err.Error(), "short")

	_, err = httpx.NewServer(httpx.Config{}, httpx.Options{Service: "x", Telemetry: telemetry.Discard("x")})
	require.ErrorContains(t, err, "token")
	_, err = httpx.NewServer(good, httpx.Options{})
	require.Error(t, err)
}

func TestARequestThatHangsEndsIn503(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t)
		b.Public().GET("/hangs", handler(func(c *gin.Context) error {
			<-c.Request.Context().Done()
			return c.Request.Context().Err()
		}))
		start := time.Now()
		w := b.get("/hangs")
		require.Equal(t, http.StatusServiceUnavailable, w.Code)
		require.Equal(t, "SERVICE_UNAVAILABLE", decodeError(t, w).Code)
		require.NotEmpty(t, w.Header().Get("Retry-After"))
		require.Equal(t, 20*time.Second, time.Since(start))
		require.EqualValues(t, 503, b.logs.Lines(t, "request")[0]["status"], "the client has not left")
	})
}
