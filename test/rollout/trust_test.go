package rollout

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/testkit/testca"
	"github.com/sentryagent/agentidp/test/internal/rig"
)

// trusting is two replicas of each service, with certificates from one directory.
type trusting struct {
	*rig.Rig

	authority *testca.Authority
	dir       string // of the certificates
	operator  string // a token of the operator
}

func TestServicesThatProveThemselvesToEachOther(t *testing.T) {
	s := start(t)
	t.Run("do their work", s.doTheirWork)
	t.Run("refuse those that do not", s.refuseStrangers)
	t.Run("take new certificates under load", s.takeNewCertificates)
	t.Run("take a new internal token under load", s.takeANewToken)
}

func start(t *testing.T) *trusting {
	t.Helper()
	s := &trusting{authority: testca.NewAuthority(t), dir: t.TempDir()}
	s.authority.Issue(t).Write(t, s.dir, s.authority)
	bin, root := programs(t)
	settings := testca.Settings(s.dir)
	settings["DRAIN_DELAY"] = "1s"
	dir, err := os.MkdirTemp("", "agentidp-trust-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s.Rig, err = rig.Start(t.Context(), rig.Config{
		Root: root, Dir: dir, Programs: bin, Out: t.Output(), Replicas: 2, Settings: settings, TLS: s.caller(t, s.authority.Issue(t)),
	})
	if s.Rig != nil {
		t.Cleanup(func() { require.NoError(t, s.Stop()) })
	}
	require.NoError(t, err)
	s.operator, err = s.Token(t.Context(), s.Operator(), scopes)
	require.NoError(t, err)
	return s
}

// caller is how somebody with a certificate calls, or without one.
func (s *trusting) caller(t *testing.T, c testca.Certificate) *tls.Config {
	t.Helper()
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(s.authority.PEM))
	cfg := &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}
	if c.Cert != nil {
		pair, err := tls.X509KeyPair(c.Cert, c.Key)
		require.NoError(t, err)
		// Also where the server does not ask for its authority.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	return cfg
}

// send sends a request to a public port and answers the status and the body.
func (s *trusting) send(ctx context.Context, client *http.Client, method, address, body string) (int, string, error) {
	request, err := http.NewRequestWithContext(ctx, method, address, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	request.Header.Set("Authorization", "Bearer "+s.operator)
	request.Header.Set("Content-Type", "application/json")
	if !strings.HasPrefix(body, "{") && body != "" {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	return fetch(client, request)
}

func fetch(client *http.Client, request *http.Request) (int, string, error) {
	response, err := client.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = response.Body.Close() }()
	read, err := io.ReadAll(response.Body)
	return response.StatusCode, string(read), err
}

func (s *trusting) must(t *testing.T, want int, method, service, path, body string) string {
	t.Helper()
	status, answer, err := s.send(t.Context(), http.DefaultClient, method, "http://"+s.Public(service)+path, body)
	require.NoError(t, err)
	require.Equal(t, want, status, answer)
	return answer
}

// register makes an agent and answers its id.
func (s *trusting) register(t *testing.T, service, email string) string {
	t.Helper()
	answer := s.must(t, http.StatusCreated, http.MethodPost, service, "/api/v1/agents", fmt.Sprintf(
		`{"email":%q,"agentType":"screener","version":"1.0.0","capabilities":["resume:read"],"owner":"talent","deploymentEnv":"staging"}`, email))
	var agent struct{ AgentID string }
	require.NoError(t, json.Unmarshal([]byte(answer), &agent))
	return agent.AgentID
}

// doTheirWork takes one agent past every service, at the second replica of each.
func (s *trusting) doTheirWork(t *testing.T) {
	agent := s.register(t, "registry-2", "screener@example.com")
	var credential struct{ ClientSecret string }
	require.NoError(t, json.Unmarshal([]byte(
		s.must(t, http.StatusCreated, http.MethodPost, "credentials-2", "/api/v1/agents/"+agent+"/credentials", "{}")), &credential))
	token, err := s.Token(t.Context(), rig.Client{ID: agent, Secret: credential.ClientSecret}, "agents:read")
	require.NoError(t, err)
	live := func() string {
		return s.must(t, http.StatusOK, http.MethodPost, "token-2", "/api/v1/token/introspect", url.Values{"token": {token}}.Encode())
	}
	require.Contains(t, live(), `"active":true`)
	s.must(t, http.StatusNoContent, http.MethodDelete, "registry-2", "/api/v1/agents/"+agent, "")
	require.Eventually(t, func() bool { return strings.Contains(live(), `"active":false`) }, patience, often)
	require.Eventually(t, func() bool {
		return strings.Contains(s.must(t, http.StatusOK, http.MethodGet, "audit-2", "/api/v1/audit?agentId="+agent, ""), "agent.decommissioned")
	}, patience, often)
}

// refuseStrangers calls the registry's internal port as those do who should not get in.
func (s *trusting) refuseStrangers(t *testing.T) {
	other := testca.NewAuthority(t)
	expired := s.authority.Issue(t, func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = c.NotBefore.Add(-time.Hour), time.Now().Add(-time.Second)
	})
	const route = "/internal/v1/agents?ids="
	ask := func(cfg *tls.Config, path, token string) (int, error) {
		transport := &http.Transport{TLSClientConfig: cfg, DisableKeepAlives: true}
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.Internal("registry")+path, nil)
		require.NoError(t, err)
		if token != "" {
			request.Header.Set("Authorization", "Bearer "+token)
		}
		response, err := (&http.Client{Transport: transport}).Do(request)
		if err != nil {
			return 0, err
		}
		return response.StatusCode, response.Body.Close()
	}
	for name, tt := range map[string]struct {
		certificate testca.Certificate
		path, token string
		status      int // 0: no connection
	}{
		"a service":                        {s.authority.Issue(t), route, s.Secret(), http.StatusBadRequest},
		"a service without the token":      {s.authority.Issue(t), route, "", http.StatusUnauthorized},
		"nobody, with the token":           {testca.Certificate{}, route, s.Secret(), http.StatusUnauthorized},
		"nobody, at a route there is not":  {testca.Certificate{}, "/internal/v1/nothing", s.Secret(), http.StatusUnauthorized},
		"a service of another authority":   {other.Issue(t), route, s.Secret(), 0},
		"a service that was one":           {expired, route, s.Secret(), 0},
		"a probe":                          {testca.Certificate{}, "/healthz", "", http.StatusOK},
		"a probe of readiness":             {testca.Certificate{}, "/readyz", "", http.StatusOK},
		"who reads metrics":                {testca.Certificate{}, "/metrics", "", http.StatusOK},
		"a probe with a wrong certificate": {other.Issue(t), "/healthz", "", 0},
	} {
		status, err := ask(s.caller(t, tt.certificate), tt.path, tt.token)
		require.Equal(t, tt.status, status, "%s: %v", name, err)
	}
	plain, err := http.Get("http://" + strings.TrimPrefix(s.Internal("registry"), "https://") + route)
	require.NoError(t, err)
	require.Equal(t, http.StatusBadRequest, plain.StatusCode, "the port speaks nothing but TLS")
	require.NoError(t, plain.Body.Close())
}

// load asks for what services can only answer with each other's help, again and again, by way of balancers.
type load struct {
	stop   context.CancelFunc
	done   sync.WaitGroup
	served [4]atomic.Int64 // by each of those that ask
	failed chan string
}

func (s *trusting) load(t *testing.T, email string) *load {
	t.Helper()
	agent := s.register(t, "registry", email)
	credentials := "http://" + s.balance(t, "credentials", s.Public).address + "/api/v1/agents/" + agent + "/credentials"
	token := "http://" + s.balance(t, "token", s.Public).address + "/api/v1/token"
	audit := "http://" + s.balance(t, "audit", s.Public).address + "/api/v1/audit?limit=1"
	var made struct{ CredentialID string }
	require.NoError(t, json.Unmarshal([]byte(
		s.must(t, http.StatusCreated, http.MethodPost, "credentials", "/api/v1/agents/"+agent+"/credentials", "{}")), &made))
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{stop: cancel, failed: make(chan string, 4)}
	ask := func(client *http.Client, method, address, body string) (string, error) {
		status, answer, err := s.send(ctx, client, method, address, body)
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("%s %s: %d %s", method, address, status, answer)
		}
		return answer, err
	}
	list := func(client *http.Client) error { _, err := ask(client, http.MethodGet, credentials, ""); return err }
	trail := func(client *http.Client) error { _, err := ask(client, http.MethodGet, audit, ""); return err }
	// A secret that no replica has seen: token asks credentials, and these the registry.
	cold := func(client *http.Client) error {
		answer, err := ask(client, http.MethodPost, credentials+"/"+made.CredentialID+"/rotate", "{}")
		if err != nil {
			return err
		}
		var rotated struct{ ClientSecret string }
		if err := json.Unmarshal([]byte(answer), &rotated); err != nil {
			return err
		}
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, token, strings.NewReader("grant_type=client_credentials&scope=agents%3Aread"))
		if err != nil {
			return err
		}
		request.SetBasicAuth(agent, rotated.ClientSecret)
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		status, answer, err := fetch(client, request)
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("POST %s: %d %s", token, status, answer)
		}
		return err
	}
	for i, one := range []func(*http.Client) error{list, list, trail, cold} {
		// What is posted goes over a new connection each time: nobody sends it again when an old one ends.
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: i == 3}}
		l.done.Go(func() {
			defer client.CloseIdleConnections()
			for ctx.Err() == nil {
				err := one(client)
				if ctx.Err() != nil {
					return
				}
				if err != nil {
					l.failed <- err.Error()
					return
				}
				l.served[i].Add(1)
			}
		})
	}
	t.Cleanup(func() { cancel(); l.done.Wait() })
	return l
}

// more waits until each of those that ask was served a few times more.
func (l *load) more(t *testing.T) {
	t.Helper()
	const times = 5
	for i := range l.served {
		wanted := l.served[i].Load() + times
		require.Eventually(t, func() bool { return l.served[i].Load() >= wanted || len(l.failed) > 0 }, patience, often)
	}
}

func (l *load) end(t *testing.T) {
	t.Helper()
	l.stop()
	l.done.Wait()
	select {
	case failure := <-l.failed:
		require.Fail(t, "a request failed", failure)
	default:
	}
}

// balance passes on to the two replicas of a service.
func (s *trusting) balance(t *testing.T, service string, address func(string) string) *balancer {
	t.Helper()
	// As a kubelet does, it asks whoever answers there, whatever authority that has by now.
	probe := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, Timeout: 5 * time.Second}
	t.Cleanup(probe.CloseIdleConnections)
	var replicas []*replica
	for _, name := range s.Instances(service) {
		replicas = append(replicas, &replica{address: address(name), ready: func() bool {
			response, err := probe.Get(s.Internal(name) + "/readyz")
			return err == nil && response.Body.Close() == nil && response.StatusCode == http.StatusOK
		}})
	}
	return balance(t, replicas...)
}

func (s *trusting) takeNewCertificates(t *testing.T) {
	l := s.load(t, "certificates@example.com")
	l.more(t)
	// A new authority is believed before the first certificate comes from it, and the old one until none does.
	next := testca.NewAuthority(t)
	last := s.authority.Issue(t)
	steps := []struct {
		certificate testca.Certificate
		authorities []*testca.Authority
	}{
		{last, []*testca.Authority{s.authority}},
		{last, []*testca.Authority{s.authority, next}},
		{next.Issue(t), []*testca.Authority{s.authority, next}},
	}
	for i, step := range steps {
		// One moment after the other, as files are written: no service may take half of it.
		step.certificate.Write(t, s.dir, step.authorities...)
		require.Eventually(t, func() bool {
			return len(s.LogLines("the TLS files have changed", 100)) >= (i+1)*len(s.Instances())
		}, patience, often, "every replica takes them without a restart")
		l.more(t)
	}
	l.end(t)

	conn, err := tls.Dial("tcp", strings.TrimPrefix(s.Internal("registry"), "https://"), &tls.Config{InsecureSkipVerify: true})
	require.NoError(t, err)
	shown := conn.ConnectionState().PeerCertificates[0].SerialNumber.Text(16)
	require.NoError(t, conn.Close())
	require.Equal(t, steps[2].certificate.Serial, shown)
	// The rig calls with a certificate of the first authority, which is still believed; so is the server by it.
	last.Write(t, s.dir, s.authority, next)
	require.Eventually(t, func() bool {
		return len(s.LogLines("the TLS files have changed", 100)) >= 4*len(s.Instances())
	}, patience, often)
}

func (s *trusting) takeANewToken(t *testing.T) {
	const next = "the-internal-token-of-tomorrow"
	peers := map[string]string{}
	for _, service := range []string{"registry", "credentials", "token"} {
		b := s.balance(t, service, func(name string) string { return strings.TrimPrefix(s.Internal(name), "https://") })
		peers[strings.ToUpper(service)+"_INTERNAL_URL"] = "https://" + b.address
	}
	l := s.load(t, "token@example.com")
	for _, step := range []map[string]string{
		{"INTERNAL_API_TOKEN_ALSO": next},
		{"INTERNAL_API_TOKEN": next, "INTERNAL_API_TOKEN_ALSO": s.Secret()},
		{"INTERNAL_API_TOKEN": next},
	} {
		maps.Copy(step, peers)
		for _, number := range []string{"", "-2"} {
			s.replace(t, number, step)
			l.more(t)
		}
	}
	l.end(t)
	status := func(token string) int {
		transport := &http.Transport{TLSClientConfig: s.caller(t, s.authority.Issue(t)), DisableKeepAlives: true}
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.Internal("token")+"/internal/v1/nothing", nil)
		require.NoError(t, err)
		request.Header.Set("Authorization", "Bearer "+token)
		response, err := (&http.Client{Transport: transport}).Do(request)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		return response.StatusCode
	}
	require.Equal(t, http.StatusNotFound, status(next))
	require.Equal(t, http.StatusUnauthorized, status(s.Secret()), "the old token is worth nothing any more")
}

// replace restarts a replica of every service, at once, with other settings.
func (s *trusting) replace(t *testing.T, number string, settings map[string]string) {
	t.Helper()
	failures := make([]error, len(rig.Services()))
	var restarting sync.WaitGroup
	for i, service := range rig.Services() {
		restarting.Go(func() { failures[i] = s.Restart(t.Context(), service+number, settings) })
	}
	restarting.Wait()
	for _, err := range failures {
		require.NoError(t, err)
	}
}
