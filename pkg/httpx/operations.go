package httpx

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/mtls"
	"github.com/sentryagent/agentidp/pkg/peer"
)

const readyTimeout = 2 * time.Second

// errDraining is why a server that stops is not ready.
var errDraining = errors.New("the server is draining")

// addOperations puts what operators and other services use on the internal engine.
func (s *Server) addOperations(e *gin.Engine) {
	admitted := s.requireToken()
	if s.opts.TLS != nil {
		admitted = s.requireCertificate(admitted)
	}
	s.internalGroup = e.Group(peer.Prefix, admitted)
	// Which internal routes exist is not for callers without the token to find out.
	guarded := func(next gin.HandlerFunc) gin.HandlerFunc {
		return func(c *gin.Context) {
			if strings.HasPrefix(c.Request.URL.Path, "/internal/") {
				if admitted(c); c.IsAborted() {
					c.Writer.Header().Del("Allow")
					return
				}
			}
			next(c)
		}
	}
	e.NoRoute(guarded(notFound))
	e.NoMethod(guarded(methodNotAllowed))

	addHealth(e)
	e.GET("/readyz", s.readyz)
	e.GET("/metrics", gin.WrapH(promhttp.HandlerFor(s.opts.Telemetry.Metrics.Registry, promhttp.HandlerOpts{})))
	if s.opts.OpenAPI != nil {
		e.GET("/openapi.yaml", func(c *gin.Context) {
			c.Data(http.StatusOK, "application/yaml", s.opts.OpenAPI)
		})
	}
	if s.cfg.PProf {
		addPProf(e)
	}
}

func refusedInside(message string) *apperr.Error {
	return apperr.New(apperr.Unauthorized, message).WithChallenge(`Bearer realm="agentidp-internal"`)
}

// requireToken admits callers with the internal API token, or with the second one while it is being replaced. Digests are
// compared, and all of them, so that neither the content nor the length of a token shows in the timing, nor which it was.
func (s *Server) requireToken() gin.HandlerFunc {
	var want [][sha256.Size]byte
	for _, token := range []config.Secret{s.cfg.InternalAPIToken, s.cfg.InternalAPITokenAlso} {
		if token != "" {
			want = append(want, sha256.Sum256([]byte("Bearer "+token.Reveal())))
		}
	}
	refusal := refusedInside("The internal API token is missing or wrong.")
	return func(c *gin.Context) {
		given := c.Request.Header.Values("Authorization")
		if len(given) == 1 {
			got := sha256.Sum256([]byte(given[0]))
			same := 0
			for _, one := range want {
				same |= subtle.ConstantTimeCompare(got[:], one[:])
			}
			if same == 1 {
				return
			}
		}
		WriteError(c, refusal)
	}
}

// requireCertificate goes on to next with callers whose certificate was verified. Whose it is, is not asked.
func (s *Server) requireCertificate(next gin.HandlerFunc) gin.HandlerFunc {
	refusal := refusedInside("The internal API needs a client certificate.")
	return func(c *gin.Context) {
		if mtls.Verified(c.Request.TLS, time.Now()) {
			next(c)
			return
		}
		// On a new connection the client may show a better one.
		c.Header("Connection", "close")
		WriteError(c, refusal)
	}
}

// addHealth answers for the process alone: restarting it heals no dependency.
func addHealth(e *gin.Engine) {
	health := func(c *gin.Context) { JSON(c, http.StatusOK, map[string]string{"status": "ok"}) }
	e.GET("/healthz", health)
	e.HEAD("/healthz", health)
}

func (s *Server) readyz(c *gin.Context) {
	err := s.readiness(c.Request.Context())
	reason := ""
	if err != nil {
		reason = err.Error()
	}
	if was := s.notReady.Swap(&reason); was == nil || *was != reason {
		s.opts.Telemetry.Log.InfoContext(c.Request.Context(), "readiness changed",
			slog.Bool("ready", err == nil), slog.String("reason", reason))
	}
	if err == nil {
		JSON(c, http.StatusOK, map[string]string{"status": "ready"})
		return
	}
	// Not WriteError: a service that waits for its dependencies is no failed
	// request, and must not be logged as one at every probe.
	e := apperr.Unavailable(nil)
	var known *apperr.Error
	if errors.As(err, &known) && known.Code == e.Code {
		e.Details = known.Details // public, as all details are
	}
	c.Header("Retry-After", "1")
	JSON(c, e.Code.Status(), e)
}

// Ready answers what /readyz does: nil while the service is ready to be sent requests.
func (s *Server) Ready(ctx context.Context) error { return s.readiness(ctx) }

func (s *Server) readiness(ctx context.Context) error {
	if s.draining.Load() {
		return errDraining
	}
	if s.opts.Ready == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	return s.opts.Ready(ctx)
}

func addPProf(e *gin.Engine) {
	g := e.Group("/debug/pprof")
	g.GET("/", gin.WrapF(pprof.Index))
	g.GET("/cmdline", gin.WrapF(pprof.Cmdline))
	g.GET("/profile", gin.WrapF(pprof.Profile))
	g.GET("/symbol", gin.WrapF(pprof.Symbol))
	g.POST("/symbol", gin.WrapF(pprof.Symbol))
	g.GET("/trace", gin.WrapF(pprof.Trace))
	for _, name := range []string{"allocs", "block", "goroutine", "heap", "mutex", "threadcreate"} {
		g.GET("/"+name, gin.WrapH(pprof.Handler(name)))
	}
}
