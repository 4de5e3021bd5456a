package clientkeys_test

import (
	"context"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/jwk"
	"github.com/sentryagent/agentidp/services/token/internal/clientkeys"
)

// theURI is one that httptest's certificate is for.
const theURI = "https://example.com/jwks.json"

func anywhere(netip.Addr) bool { return true }

// serve starts a TLS server and gives its address and who vouches for it.
func serve(t *testing.T, handler http.HandlerFunc) (address string, roots *x509.CertPool) {
	t.Helper()
	server := httptest.NewTLSServer(handler)
	t.Cleanup(server.Close)
	roots = x509.NewCertPool()
	roots.AddCert(server.Certificate())
	return server.Listener.Addr().String(), roots
}

func TestASetIsFetched(t *testing.T) {
	t.Parallel()
	exact := strings.Repeat(" ", jwk.MaxSetBytes)
	var requests []*http.Request
	address, roots := serve(t, func(w http.ResponseWriter, r *http.Request) {
		requests = append(requests, r)
		http.SetCookie(w, &http.Cookie{Name: "a", Value: "b", Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode})
		_, _ = w.Write([]byte(exact))
	})
	fetcher := clientkeys.FetcherAt(address, anywhere, roots)
	for range 2 {
		body, err := fetcher.Fetch(t.Context(), theURI)
		require.NoError(t, err)
		require.Len(t, body, jwk.MaxSetBytes)
	}
	require.Len(t, requests, 2)
	require.Empty(t, requests[1].Cookies())
	require.Equal(t, http.MethodGet, requests[0].Method)
	require.Contains(t, requests[0].Header.Get("Accept"), "application/jwk-set+json")
	require.Empty(t, requests[0].Header.Get("Accept-Encoding"), "what is taken is what was counted")
	require.NotEqual(t, requests[0].RemoteAddr, requests[1].RemoteAddr, "no connection is kept")
}

func TestWhatIsNoSetIsNotFetched(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		answer http.HandlerFunc
		reason string
	}{
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/jwks.json" {
				panic("it was followed")
			}
			http.Redirect(w, r, "https://example.com/elsewhere", http.StatusFound)
		}, "302"},
		"not found":      {http.NotFound, "404"},
		"no content":     {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }, "204"},
		"one octet more": {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, jwk.MaxSetBytes+1)) }, "larger than 65536"},
		"without end": {func(w http.ResponseWriter, _ *http.Request) {
			for err := error(nil); err == nil; {
				_, err = w.Write(make([]byte, jwk.MaxSetBytes))
			}
		}, "larger than 65536"},
		"cut short": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "10")
			_, _ = w.Write([]byte("{"))
		}, "read the set"},
		"large headers": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X", strings.Repeat("x", 1<<17))
			w.WriteHeader(http.StatusOK)
		}, "header"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			address, roots := serve(t, row.answer)
			_, err := clientkeys.FetcherAt(address, anywhere, roots).Fetch(t.Context(), theURI)
			require.ErrorContains(t, err, row.reason)
		})
	}
}

func TestASlowServerIsGivenUp(t *testing.T) {
	t.Parallel()
	released := make(chan struct{})
	address, roots := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte("{"))
		_ = http.NewResponseController(w).Flush()
		<-released
	})
	t.Cleanup(func() { close(released) })
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := clientkeys.FetcherAt(address, anywhere, roots).Fetch(ctx, theURI)
	require.ErrorIs(t, err, context.DeadlineExceeded)

	timeout, proxied, cookies := clientkeys.NewFetcher().Limits()
	require.Equal(t, 5*time.Second, timeout)
	require.False(t, proxied)
	require.False(t, cookies)
}

func TestAServerNobodyVouchesForIsRefused(t *testing.T) {
	t.Parallel()
	address, roots := serve(t, func(http.ResponseWriter, *http.Request) {})
	_, err := clientkeys.FetcherAt(address, anywhere, x509.NewCertPool()).Fetch(t.Context(), theURI)
	require.ErrorContains(t, err, "certificate")
	_, err = clientkeys.FetcherAt(address, anywhere, roots).Fetch(t.Context(), "https://other.example.org/jwks.json")
	require.ErrorContains(t, err, "other.example.org")
}

func TestANameThatLeadsInsideIsNotFollowedThere(t *testing.T) {
	t.Parallel()
	var reached atomic.Bool
	address, roots := serve(t, func(http.ResponseWriter, *http.Request) { reached.Store(true) })
	_, port, _ := strings.Cut(address, ":")
	for _, inside := range []string{address, "[::ffff:127.0.0.1]:" + port} {
		_, err := clientkeys.FetcherAt(inside, nil, roots).Fetch(t.Context(), theURI)
		require.ErrorContains(t, err, "not one of the public internet")
	}
	require.False(t, reached.Load())
}

func TestAURIThatNoClientMayRegisterIsNotFetched(t *testing.T) {
	t.Parallel()
	var reached atomic.Bool
	address, roots := serve(t, func(http.ResponseWriter, *http.Request) { reached.Store(true) })
	for _, uri := range []string{
		"http://example.com/jwks.json", "https://user@example.com/", "https://127.0.0.1/", "https://localhost/",
		"file:///etc/passwd", "https://example.com/#a", "", "//example.com/",
	} {
		_, err := clientkeys.FetcherAt(address, anywhere, roots).Fetch(t.Context(), uri)
		require.ErrorContains(t, err, "the URI must", uri)
	}
	require.False(t, reached.Load())
}
