// Package httpx is the HTTP edge that all services share.
package httpx

import (
	"context"
	"net/http"
	"net/netip"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/telemetry"
)

// Config is the HTTP part of a service's settings.
type Config struct {
	PublicAddr         string         `env:"PUBLIC_ADDR" default:":8080" desc:"Address of the public listener."`
	InternalAddr       string         `env:"INTERNAL_ADDR" default:":9090" desc:"Address of the internal listener: service to service, health, metrics."`
	InternalAPIToken   config.Secret  `env:"INTERNAL_API_TOKEN" required:"true" desc:"Bearer token of the internal API, the same for all services."`
	TrustedProxies     []netip.Prefix `env:"TRUSTED_PROXIES" desc:"Networks whose X-Forwarded-For is believed."`
	CORSAllowedOrigins []string       `env:"CORS_ALLOWED_ORIGINS" desc:"Origins that browsers may call from; CORS is off when empty."`
	HSTS               bool           `env:"HSTS_ENABLED" default:"false" desc:"Send Strict-Transport-Security; on where TLS is in front."`
	DrainDelay         time.Duration  `env:"DRAIN_DELAY" default:"3s" desc:"How long to keep accepting connections after SIGTERM, so that load balancers notice."`
	ShutdownTimeout    time.Duration  `env:"SHUTDOWN_TIMEOUT" default:"25s" desc:"Longest time from SIGTERM to exit, the drain delay included."`
	PProf              bool           `env:"PPROF_ENABLED" default:"false" desc:"Serve /debug/pprof on the internal listener."`
}

// Options are what a service gives its server.
type Options struct {
	Service   string
	Telemetry *telemetry.Telemetry
	OpenAPI   []byte
	// Ready is asked by /readyz; nil means always ready. Its error is logged, not shown.
	Ready func(context.Context) error
}

// Server has a public and an internal listener.
type Server struct {
	public   *gin.Engine
	internal *gin.RouterGroup
}

// NewServer makes a server that does not listen yet.
func NewServer(cfg Config, opts Options) (*Server, error) {
	e := gin.New()
	return &Server{public: e, internal: e.Group("/internal/v1")}, nil
}

// Public is the engine of the public listener.
func (s *Server) Public() *gin.Engine { return s.public }

// Internal is the group "/internal/v1", behind the internal bearer token.
func (s *Server) Internal() *gin.RouterGroup { return s.internal }

// PublicHandler is the whole public listener without its socket, for tests.
func (s *Server) PublicHandler() http.Handler { return s.public }

// InternalHandler is the whole internal listener without its socket, for tests.
func (s *Server) InternalHandler() http.Handler { return s.public }

// Listen opens both listeners.
func (s *Server) Listen() error { return nil }

// PublicAddr is the address the public listener got; "" before Listen.
func (s *Server) PublicAddr() string { return "" }

// InternalAddr is the address the internal listener got; "" before Listen.
func (s *Server) InternalAddr() string { return "" }

// Run listens if Listen was not called, serves until ctx is done, drains, and returns nil.
func (s *Server) Run(ctx context.Context) error { return nil }
