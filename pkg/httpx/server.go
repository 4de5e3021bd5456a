// Package httpx is the HTTP edge that all services share: two listeners with
// timeouts, request ids, security headers, one log line and one observation
// per request, errors in one shape, strict decoding of bodies and queries,
// pagination, and a drain that loses no request.
//
// It knows no route of any service and makes no decision about who may do
// what; it never logs a query string, a header or a body.
package httpx

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/gin-gonic/gin"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"golang.org/x/time/rate"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/mtls"
	"github.com/sentryagent/agentidp/pkg/telemetry"
)

const (
	// maxPublicBody is the largest public request body, in bytes.
	maxPublicBody = 64 << 10
	// maxInternalBody is the largest internal one: services send each other batches.
	maxInternalBody = 1 << 20
	// maxPublicTime is how long a public request may take: a dependency that hangs must end in a 503, and before the
	// connection's write timeout. Internal callers bring a shorter patience of their own.
	maxPublicTime = 20 * time.Second
	// proxyWarnings is the time between two warnings of a proxy that is not trusted.
	proxyWarnings = time.Hour
	// minInternalToken keeps a guessable token from guarding the internal API.
	minInternalToken = 16
)

// Config is the HTTP part of a service's settings.
type Config struct {
	PublicAddr           string         `env:"PUBLIC_ADDR" default:":8080" desc:"Address of the public listener."`
	InternalAddr         string         `env:"INTERNAL_ADDR" default:":9090" desc:"Address of the internal listener: service to service, health, metrics."`
	InternalAPIToken     config.Secret  `env:"INTERNAL_API_TOKEN" required:"true" desc:"Bearer token of the internal API, the same for all services; at least 16 visible ASCII characters."`
	InternalAPITokenAlso config.Secret  `env:"INTERNAL_API_TOKEN_ALSO" desc:"Second token that the internal API accepts beside INTERNAL_API_TOKEN, and never sends: for the time of a rotation."`
	TrustedProxies       []netip.Prefix `env:"TRUSTED_PROXIES" desc:"Networks (comma-separated, CIDR or address) whose X-Forwarded-For is believed."`
	CORSAllowedOrigins   []string       `env:"CORS_ALLOWED_ORIGINS" desc:"Origins (comma-separated, or *) that browsers may call from; CORS is off when empty."`
	HSTS                 bool           `env:"HSTS_ENABLED" default:"false" desc:"Send Strict-Transport-Security; for where TLS is in front."`
	DrainDelay           time.Duration  `env:"DRAIN_DELAY" default:"3s" desc:"How long after SIGTERM new connections are still served, so that load balancers notice /readyz first."`
	ShutdownTimeout      time.Duration  `env:"SHUTDOWN_TIMEOUT" default:"25s" desc:"Longest time from SIGTERM until open requests are cut, DRAIN_DELAY included."`
	PProf                bool           `env:"PPROF_ENABLED" default:"false" desc:"Serve /debug/pprof on the internal listener."`
}

// Validate names every setting that cannot work.
func (c Config) Validate() error {
	var errs []error
	errs = append(errs, checkToken("INTERNAL_API_TOKEN", c.InternalAPIToken), checkToken("INTERNAL_API_TOKEN_ALSO", c.InternalAPITokenAlso))
	if c.DrainDelay < 0 {
		errs = append(errs, errors.New("DRAIN_DELAY: must not be negative"))
	}
	if c.ShutdownTimeout <= c.DrainDelay {
		errs = append(errs, errors.New("SHUTDOWN_TIMEOUT: must be longer than DRAIN_DELAY"))
	}
	for _, origin := range c.CORSAllowedOrigins {
		u, err := url.Parse(origin)
		if origin != "*" && (err != nil || u.Scheme == "" || u.Host == "" || origin != u.Scheme+"://"+u.Host) {
			errs = append(errs, fmt.Errorf("CORS_ALLOWED_ORIGINS: %q is no origin; write scheme://host[:port]", origin))
		}
	}
	return errors.Join(errs...)
}

// checkToken takes a token that is not set: where one has to be, it is named as missing already.
func checkToken(setting string, secret config.Secret) error {
	if token := secret.Reveal(); token != "" && (len(token) < minInternalToken || !visibleASCII(token)) {
		return fmt.Errorf("%s: must be at least %d visible ASCII characters", setting, minInternalToken)
	}
	return nil
}

// Options are what a service gives its server.
type Options struct {
	// Service is the service's name.
	Service string
	// Telemetry is required.
	Telemetry *telemetry.Telemetry
	// OpenAPI is served at /openapi.yaml on the internal listener; nil serves none.
	OpenAPI []byte
	// Ready is asked by /readyz and must answer within two seconds; nil means
	// always ready. Its error is logged when it changes; of it only the
	// details of an apperr.Unavailable are shown.
	Ready func(context.Context) error
	// TLS is what the internal listener speaks, where /internal/v1 then takes a client's certificate besides the token;
	// nil means none. The public listener never does: TLS ends at the ingress.
	TLS *mtls.Identity
}

// Server has a public listener, which carries only the service's routes and
// /healthz, and an internal one: /internal/v1, /healthz, /readyz, /metrics,
// /openapi.yaml.
type Server struct {
	cfg    Config
	opts   Options
	always http.Header

	public        *gin.Engine
	internal      *gin.Engine
	internalGroup *gin.RouterGroup

	publicServer, internalServer *http.Server
	publicSocket, internalSocket net.Listener

	// disbelieved is for the warning of a proxy that is not trusted: anybody can cause it.
	disbelieved rate.Sometimes

	// crowded says whether new public connections are to wait; nil: never.
	crowded func() bool

	// turnedAway limits how many requests that were turned away are logged; unlogged are how many were not since the last line.
	turnedAway *rate.Limiter
	unlogged   atomic.Int64

	draining atomic.Bool
	drains   chan struct{} // closed when draining begins
	// notReady is why /readyz said no last: "" if it said yes, nil if it was not asked yet.
	notReady atomic.Pointer[string]
}

// NewServer makes a server that does not listen yet. Routes are added to
// Public and Internal before Run.
func NewServer(cfg Config, opts Options) (*Server, error) {
	if opts.Telemetry == nil || opts.Service == "" {
		return nil, errors.New("httpx: Options.Service and Options.Telemetry are required")
	}
	if cfg.InternalAPIToken == "" {
		return nil, errors.New("httpx: the internal API token is required")
	}
	gin.SetMode(gin.ReleaseMode)
	s := &Server{cfg: cfg, opts: opts, always: alwaysHeaders(cfg), drains: make(chan struct{}), disbelieved: rate.Sometimes{Interval: proxyWarnings},
		turnedAway: rate.NewLimiter(turnedAwayLogged, turnedAwayLogged)}

	s.public = newEngine()
	s.public.Use(s.observe(maxPublicBody), s.deadline(maxPublicTime))
	if len(cfg.CORSAllowedOrigins) > 0 {
		s.public.Use(allowOrigins(cfg.CORSAllowedOrigins))
	}
	s.public.NoRoute(notFound)
	s.public.NoMethod(methodNotAllowed)
	addHealth(s.public)

	s.internal = newEngine()
	s.internal.Use(s.observe(maxInternalBody))
	s.addOperations(s.internal)

	s.publicServer = s.newHTTPServer(s.PublicHandler())
	s.internalServer = s.newHTTPServer(s.InternalHandler())
	return s, nil
}

// newEngine is gin without anything that answers by itself in another shape:
// no redirects, and no guessing at the client's address (observe resolves it).
func newEngine() *gin.Engine {
	e := gin.New()
	e.RedirectTrailingSlash = false
	e.RedirectFixedPath = false
	e.HandleMethodNotAllowed = true
	e.ForwardedByClientIP = false
	// An escaped slash belongs to an identifier and must not make up a route.
	e.UseRawPath = true
	e.UnescapePathValues = true
	return e
}

func (s *Server) newHTTPServer(h http.Handler) *http.Server {
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      30 * time.Second,
		// Longer than the clients between services keep theirs, so that it is
		// the client that closes an idle connection and no request meets a closed one.
		IdleTimeout:    120 * time.Second,
		MaxHeaderBytes: 32 << 10,
		ErrorLog:       errorLog(s.opts.Telemetry.Log),
		// "OPTIONS *" would be answered before any of our headers is set.
		DisableGeneralOptionsHandler: true,
	}
	if s.cfg.PProf {
		srv.WriteTimeout = 2 * time.Minute
	}
	return srv
}

// InCrowd lets new public connections wait a little for as long as crowded says that very many requests come only to
// fail. It is asked for each connection and must answer at once. It is called before Listen, if at all.
func (s *Server) InCrowd(crowded func() bool) { s.crowded = crowded }

// Public is the router of the public listener. Its middlewares are in place.
func (s *Server) Public() *gin.Engine { return s.public }

// Internal is the group "/internal/v1", behind the internal bearer token and, with Options.TLS, a client's certificate.
func (s *Server) Internal() *gin.RouterGroup { return s.internalGroup }

// PublicHandler is the whole public side without its socket, for tests and
// for programs that embed a service.
func (s *Server) PublicHandler() http.Handler { return s.traced(s.public) }

// InternalHandler is the whole internal side without its socket.
func (s *Server) InternalHandler() http.Handler { return s.traced(s.internal) }

func (s *Server) traced(next http.Handler) http.Handler {
	if !s.opts.Telemetry.Tracing {
		return next
	}
	return otelhttp.NewHandler(next, "http",
		otelhttp.WithTracerProvider(s.opts.Telemetry.Tracer),
		otelhttp.WithMeterProvider(metricnoop.NewMeterProvider()),
		otelhttp.WithPropagators(telemetry.Propagator()),
		otelhttp.WithFilter(func(r *http.Request) bool { return !operational(r.URL.Path) }),
	)
}

func notFound(c *gin.Context) {
	WriteError(c, apperr.New(apperr.NotFound, "There is no such route."))
}

// methodNotAllowed needs no Allow of its own: gin has set it.
func methodNotAllowed(c *gin.Context) {
	WriteError(c, apperr.New(apperr.MethodNotAllowed, "This route does not support the method."))
}
