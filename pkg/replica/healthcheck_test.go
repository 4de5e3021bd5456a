package replica_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/replica"
)

func TestAHealthCheckAsksTheInternalListenerBesideIt(t *testing.T) {
	t.Parallel()
	r, server := open(t)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx, server, replica.Work{}) }()
	_, port, err := net.SplitHostPort(server.InternalAddr())
	require.NoError(t, err)
	for _, addr := range []string{server.InternalAddr(), ":" + port, "0.0.0.0:" + port} {
		settings := environment(map[string]string{"INTERNAL_ADDR": "127.0.0.1:1", "REGISTRY_INTERNAL_ADDR": addr})
		require.NoError(t, replica.Healthcheck(t.Context(), service, settings), addr)
		require.ErrorContains(t, replica.Readycheck(t.Context(), service, settings), "/readyz of "+service+" answers 503", addr)
	}
	stop()
	require.NoError(t, <-ended)
}

func TestAHealthCheckWithACertificateSpeaksTLS(t *testing.T) {
	t.Parallel()
	paths := make(chan string, 1)
	server := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { paths <- r.URL.Path }))
	defer server.Close()
	settings := environment(map[string]string{"INTERNAL_ADDR": server.Listener.Addr().String(), "TLS_CERT_FILE": "tls.crt"})
	require.NoError(t, replica.Healthcheck(t.Context(), service, settings))
	require.Equal(t, "/healthz", <-paths)
}

func TestAHealthCheckFailsWhereNobodyAnswersOrSaysNo(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer server.Close()
	for addr, reason := range map[string]string{
		"127.0.0.1:1":                   "refused",
		"nowhere":                       "INTERNAL_ADDR",
		server.Listener.Addr().String(): "503",
	} {
		err := replica.Healthcheck(t.Context(), service, environment(map[string]string{"INTERNAL_ADDR": addr}))
		require.ErrorContains(t, err, reason, addr)
	}
}
