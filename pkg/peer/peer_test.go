package peer_test

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/peer"
	"github.com/sentryagent/agentidp/pkg/telemetry"
)

const (
	token       = "hunter2-internal-token"
	traceID     = "4bf92f3577b34da6a3ce929d0e0e4736"
	traceparent = "00-" + traceID + "-00f067aa0ba902b7-01"
)

type message struct {
	Text string `json:"text"`
}

func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

func client(url string, change ...func(*peer.Config)) *peer.Client {
	cfg := peer.Config{BaseURL: url, Token: token, Name: "registry", Telemetry: telemetry.Discard("test")}
	for _, f := range change {
		f(&cfg)
	}
	return peer.New(cfg)
}

func timeout(d time.Duration) func(*peer.Config) { return func(c *peer.Config) { c.Timeout = d } }

func TestARequestCarriesWhoAndWhy(t *testing.T) {
	t.Parallel()
	for _, tracing := range []bool{false, true} {
		url := serve(t, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			if r.Header.Get("Authorization") != "Bearer "+token || r.Header.Get("X-Request-ID") != "req-1" ||
				!strings.HasPrefix(r.Header.Get("Traceparent"), "00-"+traceID) || r.Header.Get("Content-Type") != "application/json" ||
				r.Method != http.MethodPost || r.URL.String() != "/internal/v1/echo?a=1" || string(body) != `{"text":"ping"}` {
				w.WriteHeader(http.StatusTeapot)
				return
			}
			w.WriteHeader(http.StatusCreated)
			_, _ = io.WriteString(w, `{"text":"pong","newer":"field"}`)
		})
		ctx := telemetry.WithRequestID(t.Context(), "req-1")
		ctx = telemetry.Propagator().Extract(ctx, propagation.MapCarrier{"traceparent": traceparent})
		c := client(url+"/", func(cfg *peer.Config) {
			if tracing {
				cfg.Telemetry.Tracer, cfg.Telemetry.Tracing = sdktrace.NewTracerProvider(), true
			}
		})
		var out message
		status, err := c.DoStatus(ctx, http.MethodPost, "/echo?a=1", message{"ping"}, &out)
		require.NoError(t, err)
		require.Equal(t, http.StatusCreated, status)
		require.Equal(t, "pong", out.Text)
	}
}

func TestAnAnswerMayBeIgnoredOrTakenAsItIs(t *testing.T) {
	t.Parallel()
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/internal/v1/empty" {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		_, _ = io.WriteString(w, `{"keys":[]}`)
	})
	c := client(url)
	require.NoError(t, c.Do(t.Context(), http.MethodGet, "/jwks", nil, nil))
	var raw json.RawMessage
	require.NoError(t, c.Do(t.Context(), http.MethodGet, "/jwks", nil, &raw))
	require.JSONEq(t, `{"keys":[]}`, string(raw))
	var out message
	require.NoError(t, c.Do(t.Context(), http.MethodGet, "/empty", nil, &out))
	require.Equal(t, apperr.InternalServerError, apperr.CodeOf(c.Do(t.Context(), http.MethodGet, "/jwks", nil, new(int))))
	require.Equal(t, apperr.InternalServerError, apperr.CodeOf(c.Do(t.Context(), http.MethodPost, "/jwks", make(chan int), nil)))
}

func TestErrorsTravelAcrossServices(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		status int
		body   string
		retry  string
		want   apperr.Code
		after  time.Duration
	}{
		{"an error of ours stays what it is", 404, `{"code":"AGENT_NOT_FOUND","message":"gone","details":{"agentId":"x"}}`, "", apperr.AgentNotFound, 0},
		{"a conflict too", 409, `{"code":"CREDENTIAL_LIMIT_EXCEEDED","message":"many"}`, "", apperr.CredentialLimitExceeded, 0},
		{"and a limit, with its wait", 429, `{"code":"RATE_LIMIT_EXCEEDED","message":"slow"}`, "7", apperr.RateLimitExceeded, 7 * time.Second},
		{"a refused token is our misconfiguration", 401, `{"code":"UNAUTHORIZED","message":"no"}`, "", apperr.ServiceUnavailable, time.Second},
		{"a missing route too", 404, `{"code":"NOT_FOUND","message":"no"}`, "", apperr.ServiceUnavailable, time.Second},
		{"a 404 of something else is no answer", 404, `<html>`, "", apperr.InternalServerError, 0},
		{"a peer that failed", 500, `{"code":"INTERNAL_SERVER_ERROR","message":"x"}`, "", apperr.ServiceUnavailable, time.Second},
		{"a peer that lacks something, with its wait", 503, `{"code":"SERVICE_UNAVAILABLE","message":"x"}`, "5", apperr.ServiceUnavailable, 5 * time.Second},
		{"a proxy that failed", 502, `<html>bad gateway at 10.0.0.1</html>`, "soon", apperr.ServiceUnavailable, time.Second},
		{"a status that does not exist", 700, `{}`, "", apperr.ServiceUnavailable, time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				if tt.retry != "" {
					w.Header().Set("Retry-After", tt.retry)
				}
				w.WriteHeader(tt.status)
				_, _ = io.WriteString(w, tt.body)
			})
			err := client(url).Do(t.Context(), http.MethodGet, "/", nil, nil)
			var e *apperr.Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, tt.want, e.Code)
			require.Equal(t, tt.after, e.RetryAfter)
			public, err := json.Marshal(e)
			require.NoError(t, err)
			require.NotContains(t, string(public), "10.0.0.1")
		})
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	t.Parallel()
	var followed atomic.Bool
	other := serve(t, func(http.ResponseWriter, *http.Request) { followed.Store(true) })
	url := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other, http.StatusFound) })
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(client(url).Do(t.Context(), http.MethodGet, "/", nil, nil)))
	require.False(t, followed.Load(), "the token must not reach another host")
}

// cutting closes the connection of the first n requests without an answer.
func cutting(t *testing.T, n int32) (url string, seen *atomic.Int32) {
	t.Helper()
	seen = &atomic.Int32{}
	return serve(t, func(w http.ResponseWriter, _ *http.Request) {
		if seen.Add(1) <= n {
			panic(http.ErrAbortHandler)
		}
		_, _ = io.WriteString(w, `{}`)
	}), seen
}

func TestOnlyAGetIsSentASecondTime(t *testing.T) {
	t.Parallel()
	url, seen := cutting(t, 1)
	require.NoError(t, client(url).Do(t.Context(), http.MethodGet, "/", nil, nil))
	require.Equal(t, int32(2), seen.Load())

	url, seen = cutting(t, 100)
	err := client(url).Do(t.Context(), http.MethodGet, "/", nil, nil)
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
	require.NotContains(t, err.Error(), token)
	require.Equal(t, int32(2), seen.Load(), "once more, and no more")

	for _, method := range []string{http.MethodPost, http.MethodPatch, http.MethodDelete} {
		url, seen = cutting(t, 1)
		require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(client(url).Do(t.Context(), method, "/", message{"x"}, nil)))
		require.Equal(t, int32(1), seen.Load(), method)
	}
}

func TestAPostThatDoesNoHarmTwiceIsSentASecondTime(t *testing.T) {
	t.Parallel()
	url, seen := cutting(t, 1)
	require.NoError(t, client(url).Ask(t.Context(), "/", message{"x"}, nil))
	require.Equal(t, int32(2), seen.Load())

	url, seen = cutting(t, 100)
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(client(url).Ask(t.Context(), "/", message{"x"}, nil)))
	require.Equal(t, int32(2), seen.Load(), "once more, and no more")
}

func TestAPeerThatDoesNotAnswerIsUnavailableInTime(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	url := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	defer close(release)
	start := time.Now()
	err := client(url, timeout(50*time.Millisecond)).Do(t.Context(), http.MethodGet, "/", nil, nil)
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Less(t, time.Since(start), 2*time.Second)
}

func TestAResponseIsBounded(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusOK, http.StatusConflict, http.StatusInternalServerError} {
		for size, fits := range map[int]bool{peer.MaxResponse: status == http.StatusOK, peer.MaxResponse + 1: false} {
			url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(status)
				_, _ = io.WriteString(w, `"`+strings.Repeat("x", size-2)+`"`)
			})
			var out string
			err := client(url, timeout(time.Minute)).Do(t.Context(), http.MethodPost, "/", nil, &out)
			if fits {
				require.NoError(t, err)
				require.Len(t, out, size-2)
				continue
			}
			require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
			require.Equal(t, status < http.StatusInternalServerError, strings.Contains(err.Error(), "too large"))
			require.Empty(t, out)
		}
	}
}

func TestAPeerWhoseAnswerIsTooLargeIsNoneThatFails(t *testing.T) {
	t.Parallel()
	var seen atomic.Int32
	var status atomic.Int32
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		seen.Add(1)
		w.WriteHeader(int(status.Load()))
		_, _ = io.WriteString(w, strings.Repeat("x", 1<<20))
	})
	c := client(url)
	const calls = 20
	status.Store(http.StatusConflict)
	for range calls {
		require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(c.Do(t.Context(), http.MethodGet, "/", nil, nil)))
	}
	require.Equal(t, int32(calls), seen.Load(), "each call asks once: nobody is kept from it, and it is not asked the same again")

	status.Store(http.StatusInternalServerError)
	for range calls {
		require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(c.Do(t.Context(), http.MethodGet, "/", nil, nil)))
	}
	require.Equal(t, int32(calls+5), seen.Load(), "a failure is one, however much it says")
}

func TestAPeerThatKeepsFailingIsLeftAloneForAWhile(t *testing.T) {
	t.Parallel()
	var seen atomic.Int32
	var healthy atomic.Bool
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		seen.Add(1)
		if !healthy.Load() {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	c := client(url)
	for range 20 {
		require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(c.Do(t.Context(), http.MethodPost, "/", nil, nil)))
	}
	require.Equal(t, int32(5), seen.Load(), "after five failures in a row it is not asked")

	healthy.Store(true)
	require.Eventually(t, func() bool {
		return c.Do(t.Context(), http.MethodPost, "/", nil, nil) == nil
	}, 10*time.Second, 50*time.Millisecond, "it is asked again, and found well")
	require.NoError(t, c.Do(t.Context(), http.MethodGet, "/", nil, nil))
}

// recovering is a peer that has failed until the breaker opened and answers now, but only once proceed is closed. inside
// tells of each call that has got to it.
func recovering(t *testing.T, wait time.Duration) (c *peer.Client, inside chan struct{}, proceed chan struct{}) {
	t.Helper()
	var well atomic.Bool
	inside, proceed = make(chan struct{}, 100), make(chan struct{})
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if !well.Load() {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		inside <- struct{}{}
		select {
		case <-proceed:
		case <-r.Context().Done():
		}
	})
	c = client(url, timeout(wait))
	for range 5 {
		require.Error(t, c.Do(t.Context(), http.MethodPost, "/", nil, nil))
	}
	well.Store(true)
	return c, inside, proceed
}

// getIn has somebody ask until one call has got to the peer, that is until the breaker is no longer open.
func getIn(t *testing.T, inside <-chan struct{}, ask func() error) <-chan error {
	t.Helper()
	answers := make(chan error, 1)
	require.Eventually(t, func() bool {
		go func() { answers <- ask() }()
		select {
		case <-inside:
			return true
		case <-answers:
			return false
		}
	}, 10*time.Second, 50*time.Millisecond)
	return answers
}

func TestACrowdThatComesAsThePeerIsBackWaitsForTheFirstOfThem(t *testing.T) {
	t.Parallel()
	c, inside, proceed := recovering(t, time.Minute)
	leaves, leave := context.WithCancel(t.Context())
	defer leave()
	first := getIn(t, inside, func() error { return c.Do(leaves, http.MethodPost, "/", nil, nil) })
	answers := make(chan error, 40)
	for range cap(answers) {
		go func() { answers <- c.Do(t.Context(), http.MethodPost, "/", nil, nil) }()
	}
	for range 4 {
		<-inside
	}
	leave() // who got in first finds nothing out: another one does
	require.ErrorIs(t, <-first, context.Canceled)
	<-inside
	close(proceed)
	for range cap(answers) {
		require.NoError(t, <-answers, "nobody is turned away while the peer is being tried")
	}
}

func TestAPeerThatHangsHoldsNobodyUpForAllOfHisTime(t *testing.T) {
	t.Parallel()
	c, inside, _ := recovering(t, 6*time.Second)
	hanging := getIn(t, inside, func() error { return c.Do(t.Context(), http.MethodPost, "/", nil, nil) })
	for range 4 {
		go func() { _ = c.Do(t.Context(), http.MethodPost, "/", nil, nil) }()
		<-inside
	}
	require.True(t, peer.NotSent(c.Do(t.Context(), http.MethodPost, "/", nil, nil)), "who waited was not let in")
	select {
	case err := <-hanging:
		require.Fail(t, "the call that hangs has ended before the one that waited", "%v", err)
	default:
	}
}

func TestRefusalsDoNotOpenTheBreaker(t *testing.T) {
	t.Parallel()
	var seen atomic.Int32
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		seen.Add(1)
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"code":"AGENT_NOT_FOUND","message":"no"}`)
	})
	c := client(url)
	for range 20 {
		require.Equal(t, apperr.AgentNotFound, apperr.CodeOf(c.Do(t.Context(), http.MethodGet, "/", nil, nil)))
	}
	require.Equal(t, int32(20), seen.Load())
}

func TestCallersThatLeaveDoNotOpenTheBreaker(t *testing.T) {
	t.Parallel()
	url := serve(t, func(http.ResponseWriter, *http.Request) {})
	c := client(url)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for range 20 {
		err := c.Do(gone, http.MethodGet, "/", nil, nil)
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
	}
	require.NoError(t, c.Do(t.Context(), http.MethodGet, "/", nil, nil))
}

func TestAPeerThatIsNotUpIsUnavailable(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	for _, url := range []string{"http://" + l.Addr().String(), "http://%zz", ""} {
		err := client(url).Do(t.Context(), http.MethodGet, "/x", nil, nil)
		require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err), url)
		require.ErrorContains(t, err, "registry")
	}
}

func TestACallThatNobodyCanHaveSeenIsToldFromOneThatMayHaveWorked(t *testing.T) {
	t.Parallel()
	lost := serve(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	c := client(lost)
	for range 5 {
		err := c.Do(t.Context(), http.MethodPost, "/x", nil, nil)
		require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
		require.False(t, peer.NotSent(err))
	}
	require.True(t, peer.NotSent(c.Do(t.Context(), http.MethodPost, "/x", nil, nil)), "the breaker is open")

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	require.True(t, peer.NotSent(client("http://"+listener.Addr().String()).Do(t.Context(), http.MethodPost, "/x", nil, nil)))
	require.False(t, peer.NotSent(nil))
}
