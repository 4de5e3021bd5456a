// Package telemetry makes what a service tells about itself: structured logs,
// Prometheus metrics in a registry of its own, and OpenTelemetry traces.
//
// It sets no global logger, registry, tracer or propagator, and it decides
// nothing about what is logged: it must never be given a secret.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/sentryagent/agentidp/pkg/config"
)

// Config is the telemetry part of a service's settings.
type Config struct {
	LogLevel     string        `env:"LOG_LEVEL" default:"info" desc:"Least severe level that is logged: debug, info, warn or error."`
	OTLPEndpoint string        `env:"OTEL_EXPORTER_OTLP_ENDPOINT" desc:"Base URL of an OTLP/HTTP collector that receives traces; off when empty."`
	OTLPHeaders  config.Secret `env:"OTEL_EXPORTER_OTLP_HEADERS" desc:"Headers for the collector, such as its API key: key=value pairs with commas between them, values percent-encoded."`
}

// Validate names every setting that has no meaning.
func (c Config) Validate() error {
	var errs []error
	if _, ok := parseLevel(c.LogLevel); !ok {
		errs = append(errs, fmt.Errorf("LOG_LEVEL: %q is none of debug, info, warn, error", c.LogLevel))
	}
	if c.OTLPEndpoint != "" {
		if u, err := url.Parse(c.OTLPEndpoint); err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
			errs = append(errs, errors.New("OTEL_EXPORTER_OTLP_ENDPOINT: must be an http or https URL"))
		}
	}
	if _, err := parseHeaders(c.OTLPHeaders); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Telemetry is handed to everything that logs, counts or traces.
type Telemetry struct {
	// Log adds request_id and trace_id of the context to every line.
	Log *slog.Logger
	// Metrics are those of this service alone.
	Metrics *Metrics
	// Tracer makes spans; with tracing off they record nothing.
	Tracer trace.TracerProvider
	// Tracing reports whether spans go anywhere.
	Tracing bool
}

// New makes the telemetry of a service. Logs go to standard error (see WithOutput), traces to
// the configured collector, which need not be up. The returned function sends
// what is left and stops the exporter; it returns when its context ends at the latest.
func New(ctx context.Context, cfg Config, service string) (*Telemetry, func(context.Context) error, error) {
	if err := cfg.Validate(); err != nil {
		return nil, nil, err
	}
	tel := &Telemetry{
		Log:     NewLogger(output(ctx), service, cfg.LogLevel),
		Metrics: NewMetrics(),
		Tracer:  noop.NewTracerProvider(),
	}
	if cfg.OTLPEndpoint == "" {
		return tel, func(context.Context) error { return nil }, nil
	}
	endpoint, err := url.JoinPath(cfg.OTLPEndpoint, "v1/traces")
	if err != nil {
		return nil, nil, fmt.Errorf("trace endpoint: %w", err)
	}
	client, err := newCollector(endpoint, cfg.OTLPHeaders)
	if err != nil {
		return nil, nil, err
	}
	exporter, err := otlptrace.New(ctx, client)
	if err != nil {
		return nil, nil, fmt.Errorf("start the trace exporter: %w", err)
	}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter),
		sdktrace.WithResource(resource.NewSchemaless(attribute.String("service.name", "agentidp-"+service), attribute.String("service.version", Version()))),
	)
	tel.Tracer, tel.Tracing = provider, true
	return tel, provider.Shutdown, nil
}

// Discard is telemetry for tests: it logs nothing, counts into a fresh
// registry, and traces nothing.
func Discard(string) *Telemetry {
	return &Telemetry{
		Log:     slog.New(slog.DiscardHandler),
		Metrics: NewMetrics(),
		Tracer:  noop.NewTracerProvider(),
	}
}

// Propagator carries trace context over HTTP and message headers in W3C form
// (traceparent, tracestate).
func Propagator() propagation.TextMapPropagator { return propagation.TraceContext{} }
