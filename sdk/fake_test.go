package agentidp

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"
)

const (
	agentID      = "0190c3a4-5b6d-7c11-8f0e-2f3b1d9a7c10"
	credentialID = "0190c3a4-5b6d-7c11-8f0e-2f3b1d9a7c11"
	eventID      = "0190c3a4-5b6d-7c11-8f0e-2f3b1d9a7c12"
	clientSecret = "sk_live_0123456789abcdef"
)

// seen is a request the provider got.
type seen struct {
	Method, Path  string
	Query         url.Values
	Header        http.Header
	Body          string
	Authorization string
}

// answer is what the provider says to a request.
type answer struct {
	status int
	header map[string]string
	body   string
}

// provider is an AgentIdP that gives tokens t1, t2, ... and answers everything
// else as it was told to, the last answer again and again.
type provider struct {
	*httptest.Server

	mu      sync.Mutex
	issued  int
	tokens  []answer // answers of the token endpoint before it gives tokens
	answers []answer
	got     []seen
}

func newProvider(t *testing.T, answers ...answer) *provider {
	t.Helper()
	p := &provider{answers: answers}
	p.Server = httptest.NewServer(p)
	t.Cleanup(p.Close)
	return p
}

func (p *provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	p.got = append(p.got, seen{
		Method: r.Method, Path: r.URL.EscapedPath(), Query: r.URL.Query(), Header: r.Header, Body: string(body),
		Authorization: r.Header.Get("Authorization"),
	})
	w.Header().Set("X-Request-ID", "request-1")
	w.Header().Set("Content-Type", "application/json")
	say := p.next(r)
	for name, value := range say.header {
		w.Header().Set(name, value)
	}
	w.WriteHeader(say.status)
	_, _ = io.WriteString(w, say.body)
}

func (p *provider) next(r *http.Request) answer {
	queue := &p.answers
	if r.URL.Path == "/api/v1/token" {
		if queue = &p.tokens; len(p.tokens) == 0 {
			p.issued++
			return answer{200, nil, fmt.Sprintf(`{"access_token":"t%d","token_type":"Bearer","expires_in":3600,"scope":"agents:read"}`, p.issued)}
		}
	}
	say := (*queue)[0]
	if len(*queue) > 1 || queue == &p.tokens {
		*queue = (*queue)[1:]
	}
	return say
}

// calls are the requests besides those for tokens.
func (p *provider) calls() []seen {
	p.mu.Lock()
	defer p.mu.Unlock()
	var calls []seen
	for _, s := range p.got {
		if s.Path != "/api/v1/token" {
			calls = append(calls, s)
		}
	}
	return calls
}

func (p *provider) tokenCalls() []seen {
	p.mu.Lock()
	defer p.mu.Unlock()
	var calls []seen
	for _, s := range p.got {
		if s.Path == "/api/v1/token" {
			calls = append(calls, s)
		}
	}
	return calls
}

// clockwork is a clock that only moves when somebody pauses.
type clockwork struct {
	mu     sync.Mutex
	now    time.Time
	paused []time.Duration
}

func (c *clockwork) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clockwork) Pause(ctx context.Context, d time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	c.paused = append(c.paused, d)
	return ctx.Err()
}

func newClient(t *testing.T, p *provider, change func(cfg *Config)) (*Client, *clockwork) {
	t.Helper()
	cfg := Config{BaseURL: p.URL, ClientID: agentID, ClientSecret: clientSecret}
	// Any other server that closes breaks connections of http.DefaultTransport.
	cfg.HTTPClient = &http.Client{Transport: p.Client().Transport, Timeout: defaultTimeout}
	if change != nil {
		change(&cfg)
	}
	client, err := New(cfg)
	require.NoError(t, err)
	clock := &clockwork{now: time.Now()}
	client.clock, client.pause = clock.Now, clock.Pause
	client.jitter = func() float64 { return 1 }
	return client, clock
}

// direct reaches a provider without a network, which synctest's time would not wait for. It has no answer to give to the
// requests for a token while it hangs.
type direct struct {
	provider *provider
	hangs    atomic.Bool
}

func (d *direct) RoundTrip(r *http.Request) (*http.Response, error) {
	answer := httptest.NewRecorder()
	d.provider.ServeHTTP(answer, r)
	if d.hangs.Load() && r.URL.Path == "/api/v1/token" {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	return answer.Result(), nil
}

// newTimedClient lives in the time of a synctest bubble.
func newTimedClient(t *testing.T, p *provider, change func(cfg *Config)) (*Client, *direct) {
	t.Helper()
	transport := &direct{provider: p}
	client, _ := newClient(t, p, func(cfg *Config) {
		cfg.HTTPClient.Transport = transport
		if change != nil {
			change(cfg)
		}
	})
	client.clock, client.pause = time.Now, pause
	return client, transport
}

// newClientInRenewal has a token that has used up nine tenths of its life.
func newClientInRenewal(t *testing.T, p *provider) (*Client, *direct, *oauth2.Token) {
	t.Helper()
	client, transport := newTimedClient(t, p, nil)
	first, err := client.Token(t.Context())
	require.NoError(t, err)
	require.NoError(t, pause(t.Context(), 55*time.Minute))
	return client, transport, first
}

func failure(status int, code string) answer {
	return answer{status, nil, fmt.Sprintf(`{"code":%q,"message":"No."}`, code)}
}

func failureAfter(status int, code, seconds string) answer {
	a := failure(status, code)
	a.header = map[string]string{"Retry-After": seconds}
	return a
}
