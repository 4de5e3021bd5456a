package vault

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/testkit"
)

// server is one that a test may do everything with.
type server struct {
	addr, token, mount    string
	kubernetes, role, jwt string
	newToken              func(t *testing.T, lasts time.Duration) string
}

// everyServer runs a test on the stand-in, and on a real Vault or OpenBao: the one that TEST_VAULT_ADDR and TEST_VAULT_TOKEN (a
// root token) name, else a program bao or vault of this machine.
func everyServer(t *testing.T, check func(t *testing.T, s *server)) {
	t.Helper()
	t.Run("the stand-in", func(t *testing.T) {
		t.Parallel()
		v := testkit.StartVault(t, "jwt-of-the-pod")
		v.Lease(2 * time.Second)
		check(t, &server{
			addr: v.URL, token: v.Token, mount: "secret", kubernetes: "kubernetes", role: "agentidp", jwt: "jwt-of-the-pod",
			newToken: func(_ *testing.T, lasts time.Duration) string { return v.NewToken(lasts) },
		})
	})
	t.Run("a real one", func(t *testing.T) {
		t.Parallel()
		check(t, realServer(t))
	})
}

func (s *server) withToken(t *testing.T, lasts time.Duration) Config {
	t.Helper()
	return Config{Addr: config.URL(s.addr), Token: config.Secret(s.newToken(t, lasts)), Mount: s.mount}
}

// withServiceAccount logs in with tokens that last 2 s.
func (s *server) withServiceAccount(t *testing.T) Config {
	t.Helper()
	file := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(file, []byte(s.jwt+"\n"), 0o600))
	return Config{Addr: config.URL(s.addr), Mount: s.mount, KubernetesMount: s.kubernetes, KubernetesRole: s.role, KubernetesToken: file}
}

// operate does something as the operator.
func (s *server) operate(t *testing.T, method, path string, in any) (int, map[string]any) {
	t.Helper()
	body, err := json.Marshal(in)
	require.NoError(t, err)
	if in == nil {
		body = nil
	}
	req, err := http.NewRequestWithContext(t.Context(), method, s.addr+path, bytes.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("X-Vault-Token", s.token)
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	var answer map[string]any
	_ = json.NewDecoder(res.Body).Decode(&answer)
	return res.StatusCode, answer
}

func (s *server) must(t *testing.T, method, path string, in any) map[string]any {
	t.Helper()
	status, answer := s.operate(t, method, path, in)
	require.Less(t, status, 300, "%s %s: %v", method, path, answer)
	return answer
}

// realServer has a mount, a policy and a role of its own for each test. The policy is the one that README.md tells operators to write.
func realServer(t *testing.T) *server {
	t.Helper()
	addr, rootToken := findServer(t)
	own := "agentidp-" + uuid.NewString()
	s := &server{addr: addr, token: rootToken, mount: own, kubernetes: own, role: "agentidp", jwt: podToken()}
	s.must(t, http.MethodPost, "/v1/sys/mounts/"+own, map[string]any{"type": "kv", "options": map[string]string{"version": "2"}})
	s.must(t, http.MethodPost, "/v1/sys/policies/acl/"+own, map[string]any{"policy": documentedPolicy(t, own)})
	s.newToken = func(t *testing.T, lasts time.Duration) string {
		t.Helper()
		answer := s.must(t, http.MethodPost, "/v1/auth/token/create", map[string]any{
			"policies": []string{own}, "no_default_policy": true, "period": lasts.String(), "no_parent": true,
		})
		return answer["auth"].(map[string]any)["client_token"].(string)
	}
	s.must(t, http.MethodPost, "/v1/sys/auth/"+own, map[string]any{"type": "kubernetes"})
	s.must(t, http.MethodPost, "/v1/auth/"+own+"/config", map[string]any{
		"kubernetes_host": apiServer(t), "token_reviewer_jwt": podToken(), "disable_local_ca_jwt": true,
	})
	s.must(t, http.MethodPost, "/v1/auth/"+own+"/role/agentidp", map[string]any{
		"bound_service_account_names": "credentials", "bound_service_account_namespaces": "agentidp",
		"token_policies": []string{own}, "token_no_default_policy": true, "token_ttl": "2s", "audience": "vault",
	})
	c := newClient(t, s.withToken(t, time.Hour))
	require.Eventually(t, func() bool { // a new mount is not there at once
		_, err := c.Write(t.Context(), place(), "x")
		return err == nil
	}, eventually, often)
	return s
}

// documentedPolicy is that of README.md, for another mount.
func documentedPolicy(t *testing.T, mount string) string {
	t.Helper()
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(readme), "```hcl\n")
	require.True(t, found, "README.md has no policy")
	policy, _, _ := strings.Cut(rest, "```")
	return strings.ReplaceAll(policy, `"secret/`, `"`+mount+"/")
}

// podToken looks like that of the service account credentials in the namespace agentidp.
func podToken() string {
	part := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	return part(`{"alg":"RS256"}`) + "." + part(`{"iss":"kubernetes","aud":["vault"],"sub":"system:serviceaccount:agentidp:credentials",`+
		`"exp":4102444800,"nbf":1700000000,"iat":1700000000,"kubernetes.io":{"namespace":"agentidp","serviceaccount":{"name":"credentials","uid":"u1"}}}`) + "." + part("signature")
}

// apiServer reviews every token as good, as that of Kubernetes does with the pod's.
func apiServer(t *testing.T) string {
	t.Helper()
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(map[string]any{
			"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
			"status": map[string]any{"authenticated": true, "audiences": []string{"vault"}, "user": map[string]any{
				"username": "system:serviceaccount:agentidp:credentials", "uid": "u1",
				"groups": []string{"system:serviceaccounts", "system:serviceaccounts:agentidp", "system:authenticated"},
			}},
		})
	}))
	t.Cleanup(api.Close)
	return api.URL
}

// dev is the server that this run of the tests has started, if there is a program for it.
var dev struct {
	once        sync.Once
	addr, token string
	stop        context.CancelFunc
}

func findServer(t *testing.T) (addr, rootToken string) {
	t.Helper()
	if addr := os.Getenv("TEST_VAULT_ADDR"); addr != "" {
		return addr, os.Getenv("TEST_VAULT_TOKEN")
	}
	dev.once.Do(func() {
		for _, name := range []string{"bao", "vault"} {
			if program, err := exec.LookPath(name); err == nil {
				startServer(t, program)
				return
			}
		}
	})
	if dev.addr == "" {
		// Debian has no package of either, and the build of one from Go's modules takes half an hour: the same checks have
		// run on the stand-in, which was held against a real server by them.
		t.Skip("there is no program bao or vault, and TEST_VAULT_ADDR and TEST_VAULT_TOKEN name no server")
	}
	return dev.addr, dev.token
}

// startServer runs the program in its development mode, which keeps everything in memory, until the tests are over.
func startServer(t *testing.T, program string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := listener.Addr().String()
	require.NoError(t, listener.Close())
	ctx, stop := context.WithCancel(context.Background())
	token := uuid.NewString()
	cmd := exec.CommandContext(ctx, program, "server", "-dev", "-dev-no-store-token", "-dev-root-token-id="+token, "-dev-listen-address="+address)
	require.NoError(t, cmd.Start())
	dev.stop = func() {
		stop()
		_ = cmd.Wait()
	}
	require.Eventually(t, func() bool {
		res, err := http.Get("http://" + address + "/v1/sys/health")
		if err != nil {
			return false
		}
		return res.Body.Close() == nil && res.StatusCode == http.StatusOK
	}, eventually, often)
	dev.addr, dev.token = "http://"+address, token
}

func TestMain(m *testing.M) {
	code := m.Run()
	if dev.stop != nil {
		dev.stop()
	}
	os.Exit(code)
}
