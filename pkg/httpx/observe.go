package httpx

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/telemetry"
)

const (
	headerRequestID = "X-Request-ID"
	maxRequestID    = 128
	// maxLoggedPath bounds what a caller can write into the log, in bytes.
	maxLoggedPath = 512
	// unmatched is the path label of requests that no route wants: their real
	// paths are the caller's choice and must not become time series.
	unmatched = "unmatched"
	// statusClientGone is nginx's code for a client that did not wait.
	statusClientGone = 499
	// turnedAwayLogged is how many requests that were turned away are logged a second, one by one.
	turnedAwayLogged = 100
)

// observe is the outermost middleware: it prepares request and response,
// turns a panic into a 500, and logs and counts the outcome.
func (s *Server) observe(maxBody int64) gin.HandlerFunc {
	return func(c *gin.Context) {
		start := time.Now()
		s.prepare(c, maxBody)
		// What runs further in may end its own context; this one tells whether the client left.
		ctx := c.Request.Context()
		defer func() {
			panicked := recover()
			cut := panicked != nil && !s.answerPanic(c, panicked)
			s.report(ctx, c, time.Since(start))
			if cut {
				panic(http.ErrAbortHandler) // net/http closes the connection, silently
			}
		}()
		c.Next()
	}
}

// alwaysHeaders are those of every response.
func alwaysHeaders(cfg Config) http.Header {
	h := http.Header{
		"X-Content-Type-Options":  {"nosniff"},
		"Content-Security-Policy": {"default-src 'none'"},
		"Referrer-Policy":         {"no-referrer"},
		// The default is the safe one; a public document sets its own.
		"Cache-Control": {"no-store"},
	}
	if cfg.HSTS {
		h["Strict-Transport-Security"] = []string{"max-age=31536000"}
	}
	return h
}

func (s *Server) prepare(c *gin.Context, maxBody int64) {
	r := c.Request
	id := requestID(r.Header)
	ctx := telemetry.WithRequestID(r.Context(), id)
	if !s.opts.Telemetry.Tracing && r.Header.Get("Traceparent") != "" {
		// Without spans of our own the caller's trace is still passed on and logged.
		ctx = telemetry.Propagator().Extract(ctx, propagation.HeaderCarrier(r.Header))
	}
	c.Request = r.WithContext(ctx)
	if resolveClient(c.Request, s.cfg.TrustedProxies) {
		s.disbelieved.Do(func() { s.warnOfProxy(c) })
	}
	if r.Body != nil {
		c.Request.Body = http.MaxBytesReader(c.Writer, r.Body, maxBody)
	}

	h := c.Writer.Header()
	h.Set(headerRequestID, id)
	// These are on every response, so their values are made once. Each has room for one only: whoever adds another
	// value gets a copy.
	maps.Copy(h, s.always)
	if s.draining.Load() {
		h.Set("Connection", "close")
	}
}

// warnOfProxy says that a proxy may be missing in TRUSTED_PROXIES: then all its clients have one address, and share
// what one address may do. A client can send the header too, so this is no error.
func (s *Server) warnOfProxy(c *gin.Context) {
	s.opts.Telemetry.Log.WarnContext(c.Request.Context(),
		"X-Forwarded-For is not believed: its sender is not in TRUSTED_PROXIES; if that is a proxy, all its clients count as one address",
		slog.String("peer", c.RemoteIP()))
}

// deadline ends the context of requests that take longer, unless their handler makes a Stream of its answer.
func (s *Server) deadline(longest time.Duration) gin.HandlerFunc {
	return func(c *gin.Context) {
		unlimited := c.Request.Context()
		ctx, cancel := context.WithTimeout(unlimited, longest)
		defer cancel()
		c.Request = c.Request.WithContext(&limited{Context: ctx, unlimited: unlimited, drains: s.drains})
		c.Next()
	}
}

func requestID(h http.Header) string {
	if ids := h.Values(headerRequestID); len(ids) == 1 && len(ids[0]) <= maxRequestID && visibleASCII(ids[0]) {
		return ids[0]
	}
	return uuid.NewString()
}

// visibleASCII reports whether s has at least one character, and none outside 0x21-0x7E.
func visibleASCII(s string) bool {
	for i := range len(s) {
		if s[i] < 0x21 || s[i] > 0x7e {
			return false
		}
	}
	return s != ""
}

// panicError is the cause of a 500 that a panic made.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v", e.value) }

// answerPanic answers 500. It reports false if a response was under way
// already: it must not look complete to the client.
func (s *Server) answerPanic(c *gin.Context, value any) bool {
	if value == http.ErrAbortHandler { //nolint:errorlint // this very value is what net/http looks for, too
		return false
	}
	begun := c.Writer.Written()
	WriteError(c, apperr.Internal(&panicError{value: value, stack: debug.Stack()}))
	return !begun
}

func (s *Server) report(ctx context.Context, c *gin.Context, took time.Duration) {
	method, route, status := methodLabel(c.Request.Method), c.FullPath(), c.Writer.Status()
	if route == "" {
		route = unmatched
	}
	err := lastError(c)
	if status >= http.StatusInternalServerError && clientGone(ctx, err) {
		status = statusClientGone
	}

	tel := s.opts.Telemetry
	tel.Metrics.HTTPRequests.WithLabelValues(method, route, strconv.Itoa(status)).Inc()
	tel.Metrics.HTTPDuration.WithLabelValues(method, route).Observe(took.Seconds())
	if tel.Tracing {
		span := trace.SpanFromContext(ctx)
		span.SetName(method + " " + route)
		span.SetAttributes(attribute.String("http.route", route), attribute.String("url.path", loggedPath(c.Request.URL.Path)))
	}
	level := levelOf(c.Request.URL.Path, status)
	if !tel.Log.Enabled(ctx, level) {
		return
	}
	if turnedAway(status) && !s.turnedAway.Allow() {
		s.unlogged.Add(1)
		return
	}
	attrs := make([]slog.Attr, 0, 10)
	attrs = append(attrs,
		slog.String("method", method),
		slog.String("path", loggedPath(c.Request.URL.Path)),
		slog.String("route", route),
		slog.Int("status", status),
		slog.Float64("duration_ms", float64(took.Microseconds())/1000),
		slog.Int("bytes", max(c.Writer.Size(), 0)),
		slog.String("client_ip", c.RemoteIP()),
	)
	if err != nil && (level == slog.LevelError || tel.Log.Enabled(ctx, slog.LevelDebug)) {
		attrs = append(attrs, slog.String("error", WithoutSecrets(err.Error())))
	}
	if unlogged := s.unlogged.Swap(0); unlogged > 0 {
		attrs = append(attrs, slog.Int64("unlogged", unlogged))
	}
	var p *panicError
	if errors.As(err, &p) {
		attrs = append(attrs, slog.String("stack", string(p.stack)))
	}
	tel.Log.LogAttrs(ctx, level, "request", attrs...)
}

// levelOf is how much a request is worth in the log.
func levelOf(path string, status int) slog.Level {
	switch {
	case operational(path) && status != http.StatusInternalServerError:
		return slog.LevelDebug // a probe that finds the service not ready is no failed request
	case status >= http.StatusInternalServerError:
		return slog.LevelError
	default:
		return slog.LevelInfo
	}
}

// turnedAway tells a request that was not served for its caller's sake. Anybody can make very many of those.
func turnedAway(status int) bool {
	return status == http.StatusUnauthorized || status == http.StatusTooManyRequests || status == statusClientGone
}

func lastError(c *gin.Context) error {
	if last := c.Errors.Last(); last != nil {
		return last.Err
	}
	return nil
}

// clientGone reports whether the request failed only because its caller left.
func clientGone(ctx context.Context, err error) bool {
	return errors.Is(err, context.Canceled) && errors.Is(ctx.Err(), context.Canceled)
}

func methodLabel(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch,
		http.MethodDelete, http.MethodOptions, http.MethodConnect, http.MethodTrace:
		return method
	default:
		return "OTHER"
	}
}

// secretOrToken is what callers put into a path, a scope or a resource by mistake.
var secretOrToken = regexp.MustCompile(`sk_live_[0-9A-Za-z]*|eyJ[0-9A-Za-z_.-]*`)

// WithoutSecrets is a text of a caller's without the secrets and tokens in it.
func WithoutSecrets(text string) string {
	if !strings.Contains(text, "sk_live_") && !strings.Contains(text, "eyJ") {
		return text
	}
	return secretOrToken.ReplaceAllLiteralString(text, "[redacted]")
}

func loggedPath(path string) string {
	path = WithoutSecrets(path)
	if len(path) > maxLoggedPath {
		path = path[:maxLoggedPath]
	}
	return strings.ToValidUTF8(path, "\ufffd")
}

// operational reports whether a path is asked for by machines that watch, all the time.
func operational(path string) bool {
	return path == "/healthz" || path == "/readyz" || path == "/metrics"
}
