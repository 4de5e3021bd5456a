package ingress

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

const agent = "0191f3c2-7b1a-7c3e-9a51-0123456789ab"

// received is what a service saw of a request.
type received struct {
	Service, Method, Path, Query, Host, Body string
	Header                                   http.Header
}

// bundle is an open ingress in front of four fake services that answer with what they received.
type bundle struct {
	ingress *Ingress
	server  *httptest.Server
	backend map[Service]*httptest.Server
}

func setup(t *testing.T, trusted ...netip.Prefix) *bundle {
	t.Helper()
	b := &bundle{backend: make(map[Service]*httptest.Server)}
	targets := make(map[Service]string)
	for _, service := range Services() {
		backend := httptest.NewServer(echo(service))
		t.Cleanup(backend.Close)
		b.backend[service] = backend
		targets[service] = backend.URL
	}
	var err error
	b.ingress, err = New(Config{Targets: targets, TrustedProxies: trusted, Log: slog.New(slog.DiscardHandler), NewID: uuid.New})
	require.NoError(t, err)
	b.ingress.Open()
	b.server = httptest.NewServer(b.ingress)
	t.Cleanup(b.server.Close)
	return b
}

func echo(service Service) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Request-ID", r.Header.Get("X-Request-ID"))
		_ = json.NewEncoder(w).Encode(received{
			Service: string(service), Method: r.Method, Path: r.URL.EscapedPath(), Query: r.URL.RawQuery,
			Host: r.Host, Body: string(body), Header: r.Header,
		})
	})
}

func (b *bundle) do(t *testing.T, method, target, body string, header http.Header) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, b.server.URL, strings.NewReader(body))
	require.NoError(t, err)
	req.URL.Opaque = target // sent as it is, uncleaned
	for name, values := range header {
		req.Header[name] = values
	}
	res, err := b.server.Client().Do(req)
	require.NoError(t, err)
	t.Cleanup(func() { _ = res.Body.Close() })
	return res
}

func decode[T any](t *testing.T, res *http.Response) T {
	t.Helper()
	var value T
	require.NoError(t, json.NewDecoder(res.Body).Decode(&value))
	return value
}

func TestEveryPublicRouteReachesItsService(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for path, service := range map[string]Service{
		"/api/v1/agents":                                          Registry,
		"/api/v1/agents/" + agent:                                 Registry,
		"/api/v1/agents/not-a-uuid":                               Registry,
		"/api/v1/agents/" + agent + "/keys":                       Registry,
		"/api/v1/agents/" + agent + "/credentials":                Credentials,
		"/api/v1/agents/" + agent + "/credentials/" + agent:       Credentials,
		"/api/v1/agents/" + agent + "/credentials/x/rotate":       Credentials,
		"/api/v1/token":                                           Token,
		"/api/v1/token/introspect":                                Token,
		"/api/v1/token/revoke":                                    Token,
		"/oauth2/authorize":                                       Token,
		"/.well-known/oauth-authorization-server":                 Token,
		"/.well-known/openid-configuration":                       Token,
		"/.well-known/jwks.json":                                  Token,
		"/api/v1/audit":                                           Audit,
		"/api/v1/audit/" + agent:                                  Audit,
		"/api/v1/audit/" + agent + "/proof":                       Audit,
		"/api/v1/audit/checkpoint":                                Audit,
		"/api/v1/audit/consistency":                               Audit,
		"/api/v1/audit/tile/0/000":                                Audit,
		"/api/v1/audit/tile/0/x001/x234/567.p/8":                  Audit,
		"/api/v1/audit/tile/entries/x001/234":                     Audit,
		"/api/v1/audit/tile/entries/x001%2F234":                   Audit,
		"/api/v1/agents/" + agent + "%2Fcredentials":              Registry, // an encoded slash stays in its segment
		"/api/v1/agents/%00":                                      Registry,
		"/api/v1/agents/..":                                       Registry,
		"/api/v1/agents/" + strings.Repeat("a", 2000) + "?page=1": Registry,
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
			res := b.do(t, method, path, "", nil)
			require.Equal(t, http.StatusOK, res.StatusCode, path)
			got := decode[received](t, res)
			require.Equal(t, string(service), got.Service, path)
			require.Equal(t, method, got.Method, path)
			wanted, _, _ := strings.Cut(path, "?")
			require.Equal(t, wanted, got.Path, "the path is not rewritten")
		}
	}
}

func TestAnyOtherPathIsNotFoundAndReachesNoService(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, path := range []string{
		"/", "/api/v1", "/api/v1/", "/api/v1/agents/", "/api/v1//agents", "//api/v1/agents", "/api/v2/agents", "/agents", "/token",
		"/API/V1/agents", "/api/v1/agents/" + agent + "/", "/api/v1/agents/" + agent + "/tokens", "/api/v1/agents//credentials",
		"/api/v1/agents//keys", "/api/v1/agents/" + agent + "/keys/", "/api/v1/agents/" + agent + "/keys/" + agent,
		"/api/v1/agents/" + agent + "/credentials/", "/api/v1/agents/" + agent + "/credentials/x/revoke",
		"/api/v1/token/", "/api/v1/token/x", "/api/v1/audit/x/y", "/api/v1/audit/",
		"/internal/v1/bootstrap", "/internal/v1/jwks", "/metrics", "/readyz", "/openapi.yaml", "/debug/pprof/",
		"/api/v1/../../internal/v1/jwks", "/api/v1/agents/../../../internal/v1/jwks", "/api/v1/agents/%2e%2e/%2e%2e/internal",
		"/.well-known/oauth-authorization-server/x", "/oauth2/token", "/healthz/", "/x/healthz",
	} {
		res := b.do(t, http.MethodGet, path, "", nil)
		require.Equal(t, http.StatusNotFound, res.StatusCode, path)
		requireOwnAnswer(t, res)
		require.Equal(t, "NOT_FOUND", decode[map[string]any](t, res)["code"], path)
	}
}

// requireOwnAnswer checks the headers that every response of the system carries.
func requireOwnAnswer(t *testing.T, res *http.Response) {
	t.Helper()
	require.Equal(t, "application/json", res.Header.Get("Content-Type"))
	require.Equal(t, "nosniff", res.Header.Get("X-Content-Type-Options"))
	require.Equal(t, "default-src 'none'", res.Header.Get("Content-Security-Policy"))
	require.Equal(t, "no-referrer", res.Header.Get("Referrer-Policy"))
	require.NotEmpty(t, res.Header.Get("X-Request-ID"))
}

func TestARequestPassesThroughUnchanged(t *testing.T) {
	t.Parallel()
	b := setup(t)
	body := strings.Repeat("x", 1<<20)

	res := b.do(t, http.MethodPost, "/api/v1/agents?a=1&a=2&bad=%zz;c=3", body, http.Header{
		"Authorization": {"Bearer abc"}, "Idempotency-Key": {"k"},
	})
	got := decode[received](t, res)

	require.Equal(t, "a=1&a=2&bad=%zz;c=3", got.Query, "what the service should refuse must reach it")
	require.Equal(t, body, got.Body)
	require.Equal(t, "Bearer abc", got.Header.Get("Authorization"))
	require.Equal(t, "k", got.Header.Get("Idempotency-Key"))
	require.Equal(t, strings.TrimPrefix(b.server.URL, "http://"), got.Host)
}

func TestClientsCannotChooseTheirAddress(t *testing.T) {
	t.Parallel()
	forged := http.Header{
		"X-Forwarded-For": {"1.2.3.4"}, "X-Forwarded-Host": {"evil"}, "X-Forwarded-Proto": {"https"},
		"X-Forwarded-Port": {"1"}, "Forwarded": {"for=1.2.3.4"}, "X-Real-Ip": {"1.2.3.4"},
	}
	for name, test := range map[string]struct {
		trusted []netip.Prefix
		want    string
	}{
		"a peer that nobody trusts":  {nil, "127.0.0.1"},
		"a peer outside the network": {[]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, "127.0.0.1"},
		"a trusted proxy":            {[]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, "1.2.3.4, 127.0.0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, test.trusted...)
			got := decode[received](t, b.do(t, http.MethodGet, "/api/v1/audit", "", forged.Clone()))
			require.Equal(t, []string{test.want}, got.Header.Values("X-Forwarded-For"))
			require.Equal(t, "http", got.Header.Get("X-Forwarded-Proto"))
			require.Equal(t, got.Host, got.Header.Get("X-Forwarded-Host"))
			require.Empty(t, got.Header.Get("X-Forwarded-Port")+got.Header.Get("Forwarded")+got.Header.Get("X-Real-Ip"))
		})
	}
}

func TestTheRequestIDOfTheCallerIsKeptIfItIsGood(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for name, test := range map[string]struct {
		sent []string
		kept bool
	}{
		"a good one":          {[]string{"req-1~!"}, true},
		"128 characters":      {[]string{strings.Repeat("a", 128)}, true},
		"none":                {nil, false},
		"129 characters":      {[]string{strings.Repeat("a", 129)}, false},
		"a space inside":      {[]string{"a b"}, false},
		"not ASCII":           {[]string{"é"}, false},
		"two of them":         {[]string{"a", "b"}, false},
		"an empty one":        {[]string{""}, false},
		"a tab, which is odd": {[]string{"a\tb"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, path := range []string{"/api/v1/agents", "/nowhere", "/healthz"} {
				res := b.do(t, http.MethodGet, path, "", http.Header{"X-Request-Id": test.sent})
				require.Len(t, res.Header.Values("X-Request-ID"), 1)
				id := res.Header.Get("X-Request-ID")
				if test.kept {
					require.Equal(t, test.sent[0], id)
				} else {
					require.NoError(t, uuid.Validate(id))
				}
			}
		})
	}
}

func TestAServiceThatIsAwayIsReportedAsSuch(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.backend[Registry].Close()
	b.backend[Token].Close()

	res := b.do(t, http.MethodPost, "/api/v1/agents", "{}", nil)
	require.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
	require.Equal(t, "1", res.Header.Get("Retry-After"))
	requireOwnAnswer(t, res)
	body := decode[map[string]any](t, res)
	require.Equal(t, "SERVICE_UNAVAILABLE", body["code"])
	require.NotContains(t, body["message"], "127.0.0.1")

	res = b.do(t, http.MethodPost, "/api/v1/token", "grant_type=client_credentials", nil)
	require.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
	require.Equal(t, "1", res.Header.Get("Retry-After"))
	requireOwnAnswer(t, res)
	oauth := decode[map[string]any](t, res)
	require.Equal(t, "temporarily_unavailable", oauth["error"])
	require.Equal(t, "SERVICE_UNAVAILABLE", oauth["code"])

	require.Equal(t, http.StatusOK, b.do(t, http.MethodGet, "/api/v1/audit", "", nil).StatusCode, "the others go on")
}

func TestResponsesAreStreamed(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "first")
		w.(http.Flusher).Flush()
		<-release
		_, _ = io.WriteString(w, "second")
	}))
	t.Cleanup(slow.Close)
	targets := map[Service]string{Registry: slow.URL, Credentials: slow.URL, Token: slow.URL, Audit: slow.URL}
	in, err := New(Config{Targets: targets, Log: slog.New(slog.DiscardHandler), NewID: uuid.New})
	require.NoError(t, err)
	in.Open()
	server := httptest.NewServer(in)
	t.Cleanup(server.Close)

	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/api/v1/audit", nil)
	require.NoError(t, err)
	res, err := server.Client().Do(req)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	first := make([]byte, 5)
	_, err = io.ReadFull(res.Body, first)
	require.NoError(t, err)
	require.Equal(t, "first", string(first), "it arrives before the service is done")
	close(release)
	rest, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, "second", string(rest))
}

func TestHealthFollowsTheStateOfTheIngress(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.ingress.open.Store(false)

	closed := b.do(t, http.MethodGet, "/healthz", "", nil)
	require.Equal(t, http.StatusServiceUnavailable, closed.StatusCode)
	require.Equal(t, "1", closed.Header.Get("Retry-After"))
	requireOwnAnswer(t, closed)
	require.Equal(t, http.StatusServiceUnavailable, b.do(t, http.MethodGet, "/api/v1/agents", "", nil).StatusCode)
	require.Equal(t, http.StatusNotFound, b.do(t, http.MethodGet, "/nowhere", "", nil).StatusCode)

	b.ingress.Open()
	open := b.do(t, http.MethodGet, "/healthz", "", nil)
	require.Equal(t, http.StatusOK, open.StatusCode)
	requireOwnAnswer(t, open)
	require.Equal(t, http.StatusOK, b.do(t, http.MethodHead, "/healthz", "", nil).StatusCode)
	wrong := b.do(t, http.MethodPost, "/healthz", "", nil)
	require.Equal(t, http.StatusMethodNotAllowed, wrong.StatusCode)
	require.Equal(t, "GET, HEAD", wrong.Header.Get("Allow"))

	b.ingress.Drain()
	require.Equal(t, http.StatusServiceUnavailable, b.do(t, http.MethodGet, "/healthz", "", nil).StatusCode)
	require.Equal(t, http.StatusOK, b.do(t, http.MethodGet, "/api/v1/agents", "", nil).StatusCode, "requests still pass")
}

func TestNewRefusesAServiceWithoutAnAddress(t *testing.T) {
	t.Parallel()
	for name, target := range map[string]string{"missing": "", "not http": "ftp://x", "not a URL": "http://a b"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := New(Config{
				Targets: map[Service]string{Registry: "http://a", Credentials: "http://a", Token: target, Audit: "http://a"},
				Log:     slog.New(slog.DiscardHandler), NewID: uuid.New,
			})
			require.ErrorContains(t, err, "target of token")
		})
	}
}

func TestServeLetsRequestsUnderWayFinish(t *testing.T) {
	t.Parallel()
	arrived, release := make(chan struct{}), make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(arrived)
		<-release
		_, _ = io.WriteString(w, "done")
	}))
	t.Cleanup(slow.Close)
	var log bytes.Buffer
	targets := map[Service]string{Registry: slow.URL, Credentials: slow.URL, Token: slow.URL, Audit: slow.URL}
	in, err := New(Config{Targets: targets, Log: slog.New(slog.NewTextHandler(&log, nil)), NewID: uuid.New})
	require.NoError(t, err)
	in.Open()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- in.Serve(ctx, listener) }()

	answered := make(chan string, 1)
	go func() {
		res, err := http.Get("http://" + listener.Addr().String() + "/api/v1/audit")
		if err != nil {
			answered <- err.Error()
			return
		}
		body, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		answered <- string(body)
	}()
	<-arrived
	stop()
	require.Eventually(t, in.draining.Load, 5*time.Second, time.Millisecond)
	close(release)

	require.Equal(t, "done", <-answered)
	require.NoError(t, <-served)
	_, err = http.Get("http://" + listener.Addr().String() + "/healthz")
	require.Error(t, err, "the port is closed")
}

func TestTheEndpointsOfAnIssuerWithAPathAreBelowItToo(t *testing.T) {
	t.Parallel()
	in := &Ingress{routes: routingTable("/idp/v2")}
	for path, want := range map[string]Service{
		"/idp/v2/api/v1/token":                            Token,
		"/idp/v2/api/v1/token/introspect":                 Token,
		"/idp/v2/oauth2/authorize":                        Token,
		"/idp/v2/.well-known/openid-configuration":        Token,
		"/.well-known/oauth-authorization-server/idp/v2":  Token,
		"/.well-known/openid-configuration/idp/v2":        Token,
		"/api/v1/token":                                   Token,
		"/api/v1/agents":                                  Registry,
		"/idp/v2/api/v1/agents":                           "",
		"/idp/v3/api/v1/token":                            "",
		"/.well-known/oauth-authorization-server/idp":     "",
		"/.well-known/oauth-authorization-server/idp/v2/": "",
	} {
		got, found := in.match(path)
		require.Equal(t, want, got, path)
		require.Equal(t, want != "", found, path)
	}
	_, found := (&Ingress{routes: routingTable("")}).match("/idp/v2/api/v1/token")
	require.False(t, found)
}
