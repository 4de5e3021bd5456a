// Package peer calls the internal API of another service: JSON over
// keep-alive connections, with timeouts, a circuit breaker, one retry where
// that is safe, and the request id and trace context passed on. Error bodies
// become *apperr.Error again, so that apperr.CodeOf works across services.
//
// It knows no route and caches nothing. It never answers for a peer that did
// not: what could not be asked is apperr.Unavailable.
package peer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/mtls"
	"github.com/sentryagent/agentidp/pkg/telemetry"
)

// Prefix is where every service serves its internal API; the paths of calls are relative to it.
const Prefix = "/internal/v1"

// MaxResponse bounds what is read of a response, in bytes. What a peer may be asked for at once must fit in.
const MaxResponse = 16 << 20

const (
	defaultTimeout = 3 * time.Second
	// maxErrorBody bounds what is read of an error response, in bytes.
	maxErrorBody = 64 << 10
	// After tripAfter failures in a row calls fail at once, for openFor: long
	// enough to spare a peer that restarts, short enough not to be noticed after.
	tripAfter = 5
	openFor   = time.Second
	// probes may pass at once while the breaker finds out whether the peer is back; the
	// others wait for that, for a part of their time: a peer that hangs must not hold all of
	// them up, and whoever goes in then is to have time for the call.
	probes   = 5
	waitPart = 3
)

// ErrTokenRefused is the cause where a peer did not accept the internal API
// token, or had no certificate from us: waiting does not help, somebody has to correct a setting.
var ErrTokenRefused = errors.New("the peer refused our internal API token or certificate")

// Config says which service a Client calls.
type Config struct {
	// BaseURL is the peer's internal listener, such as "http://registry:9090".
	BaseURL string
	// Token is the internal API token.
	Token config.Secret
	// Name is the peer's name in logs and causes.
	Name string
	// Timeout bounds one call, its retry included; 0 means 3 s.
	Timeout time.Duration
	// TLS is the calling service's certificate, and whom it believes; nil calls https peers as any client does.
	TLS *mtls.Identity
	// Telemetry is that of the calling service.
	Telemetry *telemetry.Telemetry
}

// Client calls one service. It is safe for concurrent use.
type Client struct {
	cfg     Config
	base    string
	http    *http.Client
	breaker *gobreaker.CircuitBreaker[*response]
	decided decisions
}

// decisions let those wait whom the breaker cannot let in yet.
type decisions struct {
	mu   sync.Mutex
	next chan struct{} // closed with the next one
}

// after is closed once the breaker may decide otherwise than before.
func (d *decisions) after() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.next == nil {
		d.next = make(chan struct{})
	}
	return d.next
}

func (d *decisions) made() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.next != nil {
		close(d.next)
		d.next = nil
	}
}

// response is what a peer answered, read to its end.
type response struct {
	status int
	header http.Header
	body   []byte
}

var (
	// errPeerFailed counts as a failure of the peer although it answered.
	errPeerFailed = errors.New("the peer answered 5xx")
	// errTooLarge does not, although its answer cannot be used: the peer is well, and would answer the same again.
	errTooLarge = errors.New("the response is too large")
)

// New makes a Client. The peer need not be up, and the URL is not tried.
func New(cfg Config) *Client {
	if cfg.Timeout <= 0 {
		cfg.Timeout = defaultTimeout
	}
	c := &Client{cfg: cfg, base: strings.TrimRight(cfg.BaseURL, "/") + Prefix}
	c.http = &http.Client{
		Transport: newTransport(cfg.Telemetry, cfg.TLS),
		// The token must not follow a redirect to another host.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	c.breaker = gobreaker.NewCircuitBreaker[*response](gobreaker.Settings{
		Name:        cfg.Name,
		MaxRequests: probes,
		Timeout:     openFor,
		ReadyToTrip: func(n gobreaker.Counts) bool { return n.ConsecutiveFailures >= tripAfter },
		IsExcluded:  callerLeft,
		IsSuccessful: func(err error) bool {
			return err == nil || errors.Is(err, errTooLarge)
		},
		OnStateChange: func(name string, from, to gobreaker.State) {
			c.decided.made()
			cfg.Telemetry.Log.Warn("circuit breaker changed",
				slog.String("peer", name), slog.String("from", from.String()), slog.String("to", to.String()))
		},
	})
	return c
}

// newTransport is one pool per peer, and with identity one for each of its certificates.
func newTransport(tel *telemetry.Telemetry, identity *mtls.Identity) http.RoundTripper {
	var t http.RoundTripper
	if identity == nil {
		t = newPool()
	} else {
		t = identity.Transport(newPool)
	}
	if !tel.Tracing {
		return t
	}
	return otelhttp.NewTransport(t,
		otelhttp.WithTracerProvider(tel.Tracer),
		otelhttp.WithMeterProvider(metricnoop.NewMeterProvider()),
		otelhttp.WithPropagators(telemetry.Propagator()),
	)
}

// newPool takes no proxy from the environment: those are for the outside, and services reach each other directly.
func newPool() *http.Transport {
	return &http.Transport{
		DialContext:           (&net.Dialer{Timeout: time.Second, KeepAlive: 15 * time.Second}).DialContext,
		MaxIdleConns:          256,
		MaxIdleConnsPerHost:   256,
		IdleConnTimeout:       60 * time.Second, // below the 120 s of our servers
		TLSHandshakeTimeout:   2 * time.Second,
		ExpectContinueTimeout: time.Second,
		ForceAttemptHTTP2:     true,
	}
}

// Do sends in as JSON (nil for no body) and decodes the response into out (a
// pointer; nil to ignore it, *json.RawMessage to have it as it is).
//
// The peer's own 4xx errors come back as *apperr.Error with their code. No
// answer in time, an open breaker, a 5xx, and a 401, which means that the two
// services do not share one token, are SERVICE_UNAVAILABLE; none of them is
// the end client's doing. A GET that got no answer is sent a second time.
func (c *Client) Do(ctx context.Context, method, path string, in, out any) error {
	_, err := c.DoStatus(ctx, method, path, in, out)
	return err
}

// Ask is Do for a POST that can do no harm twice, and so is sent a second time as a GET is. A peer that stops closes the
// connections that it has not heard on for a while, and at that moment a request may be on its way on one of them.
func (c *Client) Ask(ctx context.Context, path string, in, out any) error {
	_, err := c.call(ctx, call{method: http.MethodPost, path: path, repeatable: true}, in, out)
	return err
}

// DoStatus is Do for those who must tell 200 from 201; the status is 0 with an error.
func (c *Client) DoStatus(ctx context.Context, method, path string, in, out any) (int, error) {
	return c.call(ctx, call{method: method, path: path, repeatable: method == http.MethodGet}, in, out)
}

// call is one to the peer, whatever comes of it.
type call struct {
	method, path string
	body         []byte
	repeatable   bool // it does no harm twice
}

func (c *Client) call(ctx context.Context, call call, in, out any) (int, error) {
	if in != nil {
		encoded, err := json.Marshal(in)
		if err != nil {
			return 0, apperr.Internal(fmt.Errorf("encode the request to %s: %w", c.cfg.Name, err))
		}
		call.body = encoded
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	attempts := 1
	if call.repeatable {
		attempts = 2
	}
	var res *response
	var err error
	for range attempts {
		res, err = c.once(ctx, call)
		if err == nil || ctx.Err() != nil || errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, errTooLarge) {
			break
		}
	}
	if err != nil {
		return 0, apperr.Unavailable(fmt.Errorf("%s: %s %s: %w", c.cfg.Name, call.method, call.path, err))
	}
	if err := c.failure(res); err != nil {
		return 0, err
	}
	if out == nil || len(res.body) == 0 {
		return res.status, nil
	}
	if err := json.Unmarshal(res.body, out); err != nil {
		return 0, apperr.Internal(fmt.Errorf("%s: %s %s: decode the response: %w", c.cfg.Name, call.method, call.path, err))
	}
	return res.status, nil
}

// once makes one attempt through the breaker.
func (c *Client) once(ctx context.Context, call call) (*response, error) {
	res, err := c.attempt(ctx, call)
	if errors.Is(err, gobreaker.ErrTooManyRequests) {
		return c.attemptInTurn(ctx, call)
	}
	return res, err
}

// attemptInTurn waits, for a while, for what those find who find out whether the peer is back: many who come at
// once then must not fail because it was away before.
func (c *Client) attemptInTurn(ctx context.Context, call call) (*response, error) {
	patience, cancel := context.WithTimeout(ctx, c.cfg.Timeout/waitPart)
	defer cancel()
	for {
		decided := c.decided.after()
		res, err := c.attempt(ctx, call)
		if !errors.Is(err, gobreaker.ErrTooManyRequests) {
			return res, err
		}
		select {
		case <-decided:
		case <-patience.Done():
			return nil, err
		}
	}
}

// attempt asks the peer if the breaker lets it. A 5xx is a result here, although the breaker counts it as a failure.
func (c *Client) attempt(ctx context.Context, call call) (*response, error) {
	res, err := c.breaker.Execute(func() (*response, error) {
		res, err := c.exchange(ctx, call)
		if err == nil && res.status >= http.StatusInternalServerError {
			err = errPeerFailed
		}
		return res, err
	})
	switch {
	case errors.Is(err, errPeerFailed):
		return res, nil
	case callerLeft(err):
		c.decided.made() // another one may take its place
	}
	return res, err
}

// callerLeft tells of an attempt that it found nothing out about the peer.
func callerLeft(err error) bool { return errors.Is(err, context.Canceled) }

func (c *Client) exchange(ctx context.Context, call call) (*response, error) {
	var reader io.Reader = http.NoBody
	if call.body != nil {
		reader = bytes.NewReader(call.body)
	}
	req, err := http.NewRequestWithContext(ctx, call.method, c.base+call.path, reader)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+c.cfg.Token.Reveal())
	req.Header.Set("Accept", "application/json")
	if call.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if id := telemetry.RequestID(ctx); id != "" {
		req.Header.Set("X-Request-ID", id)
	}
	telemetry.Propagator().Inject(ctx, propagation.HeaderCarrier(req.Header))

	res, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	limit := int64(MaxResponse)
	if res.StatusCode >= http.StatusBadRequest {
		limit = maxErrorBody
	}
	content, err := io.ReadAll(io.LimitReader(res.Body, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(content)) > limit {
		if res.StatusCode < http.StatusInternalServerError {
			return nil, fmt.Errorf("%w: more than %d bytes", errTooLarge, limit)
		}
		content = nil // that it failed is all that matters
	}
	return &response{status: res.StatusCode, header: res.Header, body: content}, nil
}

// failure is nil for a 2xx.
func (c *Client) failure(res *response) error {
	switch {
	case res.status >= 200 && res.status < 300:
		return nil
	case res.status == http.StatusUnauthorized:
		return apperr.Unavailable(fmt.Errorf("%s: %w", c.cfg.Name, ErrTokenRefused))
	case res.status < http.StatusBadRequest:
		return apperr.Unavailable(fmt.Errorf("%s answered with status %d", c.cfg.Name, res.status))
	}
	e := apperr.Decode(res.status, res.body)
	if seconds, err := strconv.Atoi(res.header.Get("Retry-After")); err == nil && seconds > 0 {
		e = e.WithRetryAfter(time.Duration(seconds) * time.Second)
	}
	if res.status >= http.StatusInternalServerError || e.Code == apperr.NotFound || e.Code == apperr.MethodNotAllowed {
		// A route the peer does not have is a deployment that does not fit together.
		// Its text only: what the peer's error is to the peer, it is not to our callers.
		return apperr.Unavailable(fmt.Errorf("%s: %s", c.cfg.Name, e.Error())).WithRetryAfter(max(e.RetryAfter, time.Second))
	}
	return e
}

// NotSent says of an error of a call that the peer cannot have seen it: nobody could be reached, or the breaker was open.
// Of any other failure without an answer that cannot be known.
func NotSent(err error) bool {
	var network *net.OpError
	return errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) ||
		errors.As(err, &network) && network.Op == "dial"
}
