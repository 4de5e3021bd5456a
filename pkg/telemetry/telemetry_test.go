package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/propagation"

	"github.com/sentryagent/agentidp/pkg/telemetry"
)

const (
	traceID     = "4bf92f3577b34da6a3ce929d0e0e4736"
	traceparent = "00-" + traceID + "-00f067aa0ba902b7-01"
)

func TestALineSaysWhichRequestItBelongsTo(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := telemetry.NewLogger(&out, "registry", "info")
	ctx := telemetry.WithRequestID(t.Context(), "req-1")
	ctx = telemetry.Propagator().Extract(ctx, propagation.MapCarrier{"traceparent": traceparent})

	log.With("a", 1).WithGroup("g").InfoContext(ctx, "hello", "b", 2)
	var line map[string]any
	require.NoError(t, json.Unmarshal(out.Bytes(), &line))
	require.Equal(t, "registry", line["service"])
	require.Equal(t, "hello", line["msg"])
	require.InDelta(t, 1, line["a"], 0)
	require.Equal(t, map[string]any{"b": 2.0, "request_id": "req-1", "trace_id": traceID}, line["g"])

	out.Reset()
	log.Info("outside of a request")
	line = nil
	require.NoError(t, json.Unmarshal(out.Bytes(), &line))
	require.NotContains(t, line, "request_id")
	require.NotContains(t, line, "trace_id")
}

func TestTheLevelIsKept(t *testing.T) {
	t.Parallel()
	for level, least := range map[string]slog.Level{
		"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError, "loud": slog.LevelInfo,
	} {
		log := telemetry.NewLogger(&bytes.Buffer{}, "x", level)
		require.True(t, log.Enabled(t.Context(), least), level)
		require.False(t, log.Enabled(t.Context(), least-1), level)
	}
}

func TestRequestIDIsEmptyOutsideOfARequest(t *testing.T) {
	t.Parallel()
	require.Empty(t, telemetry.RequestID(t.Context()))
}

func TestBadSettingsAreNamedTogether(t *testing.T) {
	t.Parallel()
	for _, endpoint := range []string{"collector:4318", "ftp://collector", "http://", "http://%zz"} {
		_, _, err := telemetry.New(t.Context(), telemetry.Config{LogLevel: "loud", OTLPEndpoint: endpoint}, "x")
		require.ErrorContains(t, err, "LOG_LEVEL", endpoint)
		require.ErrorContains(t, err, "OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
	}
}

func TestTracingIsOffWithoutAnEndpoint(t *testing.T) {
	t.Parallel()
	tel, stop, err := telemetry.New(t.Context(), telemetry.Config{LogLevel: "info"}, "x")
	require.NoError(t, err)
	require.False(t, tel.Tracing)
	_, span := tel.Tracer.Tracer("test").Start(t.Context(), "work")
	require.False(t, span.IsRecording())
	require.NoError(t, stop(t.Context()))
}

func TestTracesReachTheCollector(t *testing.T) {
	t.Parallel()
	paths := make(chan string, 8)
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { paths <- r.URL.Path }))
	defer collector.Close()

	tel, stop, err := telemetry.New(t.Context(), telemetry.Config{LogLevel: "info", OTLPEndpoint: collector.URL + "/otlp/"}, "x")
	require.NoError(t, err)
	require.True(t, tel.Tracing)
	_, span := tel.Tracer.Tracer("test").Start(t.Context(), "work")
	require.True(t, span.IsRecording())
	span.End()

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	require.NoError(t, stop(ctx), "stopping sends what is left")
	require.Equal(t, "/otlp/v1/traces", <-paths)
}

func TestMetricNamesAndLabels(t *testing.T) {
	t.Parallel()
	m := telemetry.NewMetrics()
	m.HTTPRequests.WithLabelValues("GET", "/x", "200").Inc()
	m.HTTPDuration.WithLabelValues("GET", "/x").Observe(.1)
	m.RateLimitRejections.Inc()
	m.DBQuery.WithLabelValues("agent_insert").Observe(.1)
	m.RedisCommand.WithLabelValues("evalsha").Observe(.1)
	m.OutboxPending.Set(3)
	m.CacheRequests.WithLabelValues("agent", "hit").Inc()
	for _, name := range []string{
		"agentidp_http_requests_total", "agentidp_http_request_duration_seconds", "agentidp_rate_limit_rejections_total",
		"agentidp_db_query_duration_seconds", "agentidp_redis_command_duration_seconds", "agentidp_outbox_pending",
		"agentidp_cache_requests_total", "go_goroutines",
	} {
		n, err := testutil.GatherAndCount(m.Registry, name)
		require.NoError(t, err)
		require.Equal(t, 1, n, name)
	}
	problems, err := testutil.GatherAndLint(m.Registry, "agentidp_http_requests_total", "agentidp_http_request_duration_seconds")
	require.NoError(t, err)
	require.Empty(t, problems)
}

func TestServicesInOneProcessDoNotShareMetrics(t *testing.T) {
	t.Parallel()
	a, b := telemetry.Discard("a"), telemetry.Discard("b")
	a.Metrics.RateLimitRejections.Inc()
	require.Zero(t, testutil.ToFloat64(b.Metrics.RateLimitRejections))
	global, err := prometheus.DefaultGatherer.Gather()
	require.NoError(t, err)
	for _, family := range global {
		require.NotContains(t, family.GetName(), "agentidp")
	}
	require.False(t, a.Log.Enabled(t.Context(), slog.LevelError))
}

func TestTheMetricsTellWhatIsRunning(t *testing.T) {
	t.Parallel()
	require.NotEmpty(t, telemetry.Version())
	found, err := testutil.GatherAndCount(telemetry.NewMetrics().Registry, "agentidp_build_info")
	require.NoError(t, err)
	require.Equal(t, 1, found)
}
