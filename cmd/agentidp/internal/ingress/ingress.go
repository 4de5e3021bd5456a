// Package ingress is the one public door of `agentidp dev`: it takes every request on a single port and
// hands it to the service that owns its path. It is what a Kubernetes Ingress is in production, so it
// must stay as thin: it knows paths and nothing of bodies, tokens or rules, and it never routes to an
// internal port.
package ingress

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/apperr"
)

const (
	headerRequestID    = "X-Request-ID"
	headerForwardedFor = "X-Forwarded-For"
	maxRequestIDLength = 128

	// retryAfter is what a client is told to wait when the ingress itself has no answer.
	retryAfter = time.Second
)

// Config is what an Ingress needs.
type Config struct {
	// Targets maps each service to the base URL of its public listener. All of Services must be there.
	Targets map[Service]string
	// IssuerPath is the path of the issuer's URL, "" if it has none.
	IssuerPath string
	// TrustedProxies are peers whose X-Forwarded-For is kept and appended to. From any other peer the
	// header is dropped, so that a client cannot choose its own address. Empty trusts nobody.
	TrustedProxies []netip.Prefix
	// Log gets one warning per request that found its service away.
	Log *slog.Logger
	// NewID makes a request id where the caller sent none.
	NewID func() uuid.UUID
}

// Ingress is an http.Handler. It answers 503 to everything until Open is called.
type Ingress struct {
	routes  []route
	proxies map[Service]*httputil.ReverseProxy
	trusted []netip.Prefix
	log     *slog.Logger
	newID   func() uuid.UUID

	open     atomic.Bool // requests are let through
	draining atomic.Bool // /healthz says no, requests still pass
}

// New builds an Ingress that is not open yet. It fails when a target is missing or is not an http URL.
func New(cfg Config) (*Ingress, error) {
	in := &Ingress{
		routes:  routingTable(cfg.IssuerPath),
		proxies: make(map[Service]*httputil.ReverseProxy, len(cfg.Targets)),
		trusted: cfg.TrustedProxies,
		log:     cfg.Log,
		newID:   cfg.NewID,
	}
	transport := newTransport()
	for _, service := range Services() {
		target, err := url.Parse(cfg.Targets[service])
		if err != nil {
			return nil, fmt.Errorf("target of %s: %w", service, err)
		}
		if target.Scheme != "http" || target.Host == "" {
			return nil, fmt.Errorf("target of %s: %q is not an http URL", service, cfg.Targets[service])
		}
		in.proxies[service] = in.newProxy(service, target, transport)
	}
	return in, nil
}

// Open lets requests through and makes /healthz answer 200.
func (in *Ingress) Open() { in.open.Store(true) }

// Drain makes /healthz answer 503 again while requests still pass.
func (in *Ingress) Drain() { in.draining.Store(true) }

// ServeHTTP routes one request.
func (in *Ingress) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !validRequestID(r.Header.Values(headerRequestID)) {
		r.Header.Set(headerRequestID, in.newID().String())
	}
	path := r.URL.EscapedPath()
	if path == "/healthz" {
		in.health(w, r)
		return
	}
	service, found := in.match(path)
	switch {
	case !found:
		writeError(w, r, apperr.New(apperr.NotFound, "There is no such route."))
	case !in.open.Load():
		writeUnavailable(w, r, service)
	default:
		in.proxies[service].ServeHTTP(w, r)
	}
}

func (in *Ingress) health(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		writeError(w, r, apperr.New(apperr.MethodNotAllowed, "This route does not know that method."))
		return
	}
	if !in.open.Load() || in.draining.Load() {
		writeError(w, r, apperr.New(apperr.ServiceUnavailable, "The services are not ready.").WithRetryAfter(retryAfter))
		return
	}
	writeJSON(w, r, http.StatusOK, map[string]string{"status": "ok"})
}

// newProxy forwards to one service with path, query, body and host as they came.
func (in *Ingress) newProxy(service Service, target *url.URL, transport http.RoundTripper) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Transport:     transport,
		FlushInterval: -1,
		ErrorLog:      slog.NewLogLogger(in.log.Handler(), slog.LevelWarn),
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.Out.URL.Scheme = target.Scheme
			pr.Out.URL.Host = target.Host
			pr.Out.Host = pr.In.Host
			// ReverseProxy drops query parameters it cannot parse; whether they are wrong is for the service to say.
			pr.Out.URL.RawQuery = pr.In.URL.RawQuery
			dropForwarding(pr.Out.Header)
			if in.trusts(pr.In.RemoteAddr) {
				pr.Out.Header[headerForwardedFor] = pr.In.Header.Values(headerForwardedFor)
			}
			pr.SetXForwarded()
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if errors.Is(r.Context().Err(), context.Canceled) {
				return // the caller is gone, nobody reads an answer
			}
			in.log.WarnContext(r.Context(), "service did not answer",
				slog.String("service", string(service)), slog.String("request_id", r.Header.Get(headerRequestID)),
				slog.Any("error", err))
			writeUnavailable(w, r, service)
		},
	}
}

// newTransport keeps connections shorter than the services do, so that a request is never written to one
// that its service is just closing.
func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:                 nil,
		DialContext:           (&net.Dialer{Timeout: 2 * time.Second}).DialContext,
		MaxIdleConnsPerHost:   256,
		IdleConnTimeout:       30 * time.Second,
		ResponseHeaderTimeout: 60 * time.Second,
		ExpectContinueTimeout: time.Second,
		DisableCompression:    true,
	}
}

// dropForwarding removes every header a proxy might set about the client, in whatever spelling.
func dropForwarding(h http.Header) {
	for name := range h {
		if strings.HasPrefix(name, "X-Forwarded-") || name == "Forwarded" || name == "X-Real-Ip" {
			delete(h, name)
		}
	}
}

func (in *Ingress) trusts(remoteAddr string) bool {
	peer, err := netip.ParseAddrPort(remoteAddr)
	if err != nil {
		return false
	}
	for _, prefix := range in.trusted {
		if prefix.Contains(peer.Addr().Unmap()) {
			return true
		}
	}
	return false
}

// validRequestID tells whether the caller sent exactly one id of 1 to 128 visible ASCII characters.
func validRequestID(values []string) bool {
	if len(values) != 1 || values[0] == "" || len(values[0]) > maxRequestIDLength {
		return false
	}
	for i := range len(values[0]) {
		if c := values[0][i]; c < '!' || c > '~' {
			return false
		}
	}
	return true
}

// writeUnavailable answers for a service that is away. OAuth clients of the token service read `error`
// (RFC 6749 §5.2), everybody else `code`; the token routes carry both.
func writeUnavailable(w http.ResponseWriter, r *http.Request, service Service) {
	const message = "The service is not available at the moment."
	if service != Token {
		writeError(w, r, apperr.New(apperr.ServiceUnavailable, message).WithRetryAfter(retryAfter))
		return
	}
	w.Header().Set("Retry-After", strconv.Itoa(int(retryAfter/time.Second)))
	w.Header().Set("Pragma", "no-cache")
	writeJSON(w, r, http.StatusServiceUnavailable, map[string]string{
		"error":             "temporarily_unavailable",
		"error_description": message,
		"code":              string(apperr.ServiceUnavailable),
		"message":           message,
	})
}

func writeError(w http.ResponseWriter, r *http.Request, err *apperr.Error) {
	if err.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(err.RetryAfter/time.Second)))
	}
	writeJSON(w, r, err.Code.Status(), err)
}

// writeJSON answers from the ingress itself, with the headers that every response of the system carries.
func writeJSON(w http.ResponseWriter, r *http.Request, status int, body any) {
	encoded, err := json.Marshal(body)
	if err != nil {
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set(headerRequestID, r.Header.Get(headerRequestID))
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(encoded) // a client that hung up is not an error of ours
}
