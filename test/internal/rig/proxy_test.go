package rig

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/devservers"
)

// behindProxy is a proxy before so many servers that stand for replicas of the token service.
func behindProxy(t *testing.T, servers int) (*Rig, map[string]*httptest.Server) {
	t.Helper()
	if _, err := devservers.FindHAProxy(); err != nil && os.Getenv("CI") == "" {
		// Not installed yet on this machine: `make setup` does it, and `make test` calls that. In CI it fails instead.
		t.Skip(err)
	}
	r := &Rig{dir: t.TempDir(), ports: map[string]bool{}, services: map[string]*service{}, made: map[string]int{}, names: Names(servers, "token")}
	require.NoError(t, r.startProxy(t.Context()))
	t.Cleanup(func() { _ = r.proxy.stop() })
	all := map[string]*httptest.Server{}
	for _, name := range r.names {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = fmt.Fprintf(w, "%s for %s", name, r.Header.Get("X-Forwarded-For"))
		}))
		t.Cleanup(server.Close)
		address := strings.TrimPrefix(server.URL, "http://")
		r.services[name], all[name] = &service{public: address, internal: address}, server
		require.NoError(t, r.Admit(name))
	}
	return r, all
}

func ask(t *testing.T, address string) (status int, by, body string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/api/v1/token", nil)
	require.NoError(t, err)
	request.Header.Set("X-Request-ID", "asked")
	request.Close = true // the proxy has its own connections
	response, err := http.DefaultTransport.RoundTrip(request)
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	content, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, response.Header.Get(ServedBy), string(content)
}

func TestTheProxySendsToEachReplicaInTurnUntilItIsToldNotTo(t *testing.T) {
	t.Parallel()
	r, _ := behindProxy(t, 2)
	times := map[string]int{}
	for range 4 {
		status, by, body := ask(t, r.Entrance())
		require.Equal(t, http.StatusOK, status)
		require.Equal(t, by+" for 127.0.0.1", body)
		times[by]++
		_, _, body = ask(t, r.proxy.inside["token"])
		name, from, _ := strings.Cut(body, " for ")
		require.Empty(t, from, "between services it does not look into what is said")
		times["inside "+name]++
	}
	require.Equal(t, map[string]int{"token": 2, "token-2": 2, "inside token": 2, "inside token-2": 2}, times)

	require.NoError(t, r.Dismiss("token"))
	for range 3 {
		_, by, _ := ask(t, r.Entrance())
		require.Equal(t, "token-2", by)
		_, _, body := ask(t, r.proxy.inside["token"])
		require.Contains(t, body, "token-2")
	}
	require.Error(t, r.Dismiss("token-3"), "there is none")
	require.Error(t, r.Admit("token-2"), "it was admitted before")
}

func TestTheProxyHidesNoFailureFromWhoAsks(t *testing.T) {
	t.Parallel()
	r, servers := behindProxy(t, 2)
	for range 4 { // so that there are connections to both
		ask(t, r.Entrance())
	}
	servers["token"].Close()
	failed := 0
	for range 4 {
		status, by, _ := ask(t, r.Entrance())
		if status != http.StatusOK {
			require.Equal(t, "token", by)
			failed++
		}
	}
	require.Equal(t, 2, failed, "every second one")
	passed, err := r.Passed()
	require.NoError(t, err)
	require.Equal(t, int64(4), passed["token-2"].Requests)
	require.Equal(t, int64(4), passed["token"].Requests)
	require.Positive(t, passed["token"].Refused+passed["token"].Broken)
	require.Zero(t, passed["token"].Again+passed["token-2"].Again)
	require.Eventually(t, func() bool { return len(r.LogLines("asked", 9)) > 0 }, waitFor, tick, "it says which")
	_, err = readPassed("no table")
	require.NoError(t, err)
	_, err = readPassed("\"")
	require.Error(t, err)
}

func TestTheWorkOfAReplicaIsReadFromItsMetrics(t *testing.T) {
	t.Parallel()
	work, err := readWork([]byte(`# TYPE agentidp_http_requests_total counter
agentidp_http_requests_total{method="POST",path="/api/v1/token",status_code="200"} 5
agentidp_http_requests_total{method="POST",path="/api/v1/token",status_code="401"} 2
agentidp_http_requests_total{method="GET",path="/.well-known/jwks.json",status_code="200"} 1
agentidp_http_requests_total{method="GET",path="/internal/v1/jwks",status_code="200"} 3
agentidp_http_requests_total{method="GET",path="/readyz",status_code="200"} 90
# TYPE agentidp_audit_events_total counter
agentidp_audit_events_total{result="stored"} 7
agentidp_audit_events_total{result="duplicate"} 4
# TYPE agentidp_rate_limit_open_total counter
agentidp_rate_limit_open_total 6
`))
	require.NoError(t, err)
	require.Equal(t, Work{Public: 8, Internal: 3, Stored: 7, Unlimited: 6}, work)
	require.Equal(t, Work{Public: 1, Internal: 1, Stored: 1, Unlimited: 1}, work.Less(Work{Public: 7, Internal: 2, Stored: 6, Unlimited: 5}))
	_, err = readWork([]byte("{"))
	require.Error(t, err)
}

func TestReplicasComeAndGo(t *testing.T) {
	t.Parallel()
	r := &Rig{services: map[string]*service{}, ports: map[string]bool{}, made: map[string]int{}, names: Names(1)}
	for _, name := range r.names {
		require.NoError(t, r.enlist(t.Context(), name))
	}
	more, err := r.enlistMore(t.Context(), []string{"audit", "audit", "token"})
	require.NoError(t, err)
	require.Equal(t, []string{"audit-2", "audit-3", "token-2"}, more)
	require.Equal(t, []string{"audit", "audit-2", "audit-3"}, r.Instances("audit"))
	r.Forget("audit")
	r.Forget("audit-3")
	require.Equal(t, []string{"token", "token-2", "audit-2"}, r.Instances("token", "audit"))
	_, err = r.enlistMore(t.Context(), []string{"audit"})
	require.NoError(t, err)
	require.Equal(t, []string{"audit-2", "audit-4"}, r.Instances("audit"), "a name is given once")
	require.Contains(t, r.writers(), "audit", "whose log there still is")
}
