package vault

import (
	"context"
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/pkg/testkit"
	"github.com/sentryagent/agentidp/services/credentials/internal/secret"
)

const (
	eventually = 20 * time.Second
	often      = 50 * time.Millisecond
)

func newClient(t *testing.T, cfg Config) *Client {
	t.Helper()
	c, err := New(cfg, telemetry.Discard("test").Log, NewDurations(prometheus.NewRegistry()))
	require.NoError(t, err)
	return c
}

// run keeps the client's token good until the test ends.
func run(t *testing.T, c *Client) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
}

func place() secret.Place { return secret.Place{AgentID: uuid.New(), CredentialID: uuid.New()} }

func requireUnavailable(t *testing.T, err error) {
	t.Helper()
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
	require.Positive(t, apperr.From(err).RetryAfter)
}

func TestASecretIsKeptInVersionsUntilTheyAreDeleted(t *testing.T) {
	t.Parallel()
	everyServer(t, func(t *testing.T, s *server) {
		t.Helper()
		c := newClient(t, s.withToken(t, time.Hour))
		require.NoError(t, c.Ready(t.Context()))
		at, one, two := place(), secret.Generate(), secret.Generate()
		for i, text := range []config.Secret{one, two, secret.Generate()} {
			version, err := c.Write(t.Context(), at, text)
			require.NoError(t, err)
			require.Equal(t, i+1, version)
		}
		for version, want := range map[int]config.Secret{1: one, 2: two} {
			got, err := c.Read(t.Context(), at, version)
			require.NoError(t, err)
			require.Equal(t, want.Reveal(), got.Reveal())
		}
		path := "/v1/" + s.mount + "/data/agentidp/agents/" + at.AgentID.String() + "/credentials/" + at.CredentialID.String()
		status, answer := s.operate(t, http.MethodGet, path+"?version=2", nil)
		require.Equal(t, http.StatusOK, status)
		require.Equal(t, map[string]any{field: two.Reveal()}, answer["data"].(map[string]any)["data"], "the path that operators are told")

		require.NoError(t, c.Destroy(t.Context(), at, 1))
		_, err := c.Read(t.Context(), at, 1)
		require.ErrorIs(t, err, secret.ErrGone)
		status, _ = s.operate(t, http.MethodDelete, path, nil) // the newest, so that it could be undeleted
		require.Equal(t, http.StatusNoContent, status)
		_, err = c.Read(t.Context(), at, 3)
		require.ErrorIs(t, err, secret.ErrGone)
		_, err = c.Read(t.Context(), at, 2)
		require.NoError(t, err)

		require.NoError(t, c.Delete(t.Context(), at))
		_, err = c.Read(t.Context(), at, 2)
		require.NotErrorIs(t, err, secret.ErrGone)
		requireUnavailable(t, err)
		status, _ = s.operate(t, http.MethodGet, strings.Replace(path, "/data/", "/metadata/", 1), nil)
		require.Equal(t, http.StatusNotFound, status)
		require.NoError(t, c.Delete(t.Context(), at), "twice does no harm")
		require.NoError(t, c.Destroy(t.Context(), at, 2), "nor what came too late")
	})
}

func TestWhatVaultNeverHadIsNotGone(t *testing.T) {
	t.Parallel()
	everyServer(t, func(t *testing.T, s *server) {
		t.Helper()
		cfg := s.withToken(t, time.Hour)
		c, at := newClient(t, cfg), place()
		_, err := c.Read(t.Context(), at, 1)
		requireUnavailable(t, err)
		_, err = c.Write(t.Context(), at, secret.Generate())
		require.NoError(t, err)
		_, err = c.Read(t.Context(), at, 2)
		requireUnavailable(t, err)
		cfg.Mount = "another"
		_, err = newClient(t, cfg).Read(t.Context(), at, 1)
		requireUnavailable(t, err)
	})
}

func TestATokenThatIsNotKnownIsNoAnswerAboutASecret(t *testing.T) {
	t.Parallel()
	everyServer(t, func(t *testing.T, s *server) {
		t.Helper()
		cfg := s.withToken(t, time.Hour)
		cfg.Token = "hvs.nobody-was-given-this-one" // #nosec G101 -- not a credential
		c := newClient(t, cfg)
		_, err := c.Write(t.Context(), place(), secret.Generate())
		requireUnavailable(t, err)
		require.ErrorContains(t, err, "403")
		require.NotContains(t, err.Error(), "nobody")
		requireUnavailable(t, c.Ready(t.Context()))
	})
}

func TestATokenIsRenewedBeforeItEnds(t *testing.T) {
	t.Parallel()
	everyServer(t, func(t *testing.T, s *server) {
		t.Helper()
		const lasts = 2 * time.Second
		kept, left := newClient(t, s.withToken(t, lasts)), newClient(t, s.withToken(t, lasts))
		run(t, kept)
		require.Eventually(t, func() bool { return left.Ready(t.Context()) != nil }, eventually, often, "one that nobody renews ends")
		require.NoError(t, kept.Ready(t.Context()))
	})
}

func TestAServiceAccountLogsInAndDoesSoAgain(t *testing.T) {
	t.Parallel()
	everyServer(t, func(t *testing.T, s *server) {
		t.Helper()
		c, at := newClient(t, s.withServiceAccount(t)), place()
		_, err := c.Write(t.Context(), at, secret.Generate())
		require.NoError(t, err, "the first request logs in")
		first := c.token.Load().value
		run(t, c)
		require.Eventually(t, func() bool {
			now, err := c.current(t.Context(), token{})
			return err == nil && now.value != first
		}, eventually, often, "half of the lease later")

		// One that Vault has lost, as after a restore.
		lost, err := c.current(t.Context(), token{})
		require.NoError(t, err)
		status, _ := s.operate(t, http.MethodPost, "/v1/auth/token/revoke", map[string]any{"token": lost.value.Reveal()})
		require.Equal(t, http.StatusNoContent, status)
		require.Eventually(t, func() bool {
			_, err := c.Read(t.Context(), at, 1)
			return err == nil
		}, eventually, often)

		refused := s.withServiceAccount(t)
		refused.KubernetesRole = "another"
		requireUnavailable(t, newClient(t, refused).Ready(t.Context()))
		refused = s.withServiceAccount(t)
		refused.KubernetesToken = filepath.Join(t.TempDir(), "missing")
		err = newClient(t, refused).Ready(t.Context())
		requireUnavailable(t, err)
		require.ErrorContains(t, err, "VAULT_KUBERNETES_TOKEN_FILE")
	})
}

// answering is a Vault that gives one answer, and counts how often.
func answering(t *testing.T, answer http.HandlerFunc) (addr config.URL, asked *atomic.Int32) {
	t.Helper()
	asked = &atomic.Int32{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		answer(w, r)
	}))
	t.Cleanup(server.Close)
	return config.URL(server.URL), asked
}

func TestTheTokenFollowsNoRedirect(t *testing.T) {
	t.Parallel()
	elsewhere, asked := answering(t, func(http.ResponseWriter, *http.Request) {})
	addr, _ := answering(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, string(elsewhere)+r.URL.Path, http.StatusTemporaryRedirect)
	})
	c := newClient(t, Config{Addr: addr, Token: "t", Mount: "secret"})
	requireUnavailable(t, c.Ready(t.Context()))
	_, err := c.Write(t.Context(), place(), secret.Generate())
	requireUnavailable(t, err)
	require.Zero(t, asked.Load())
}

func TestAnAnswerAboutAnotherVersionIsNone(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		status int
		answer string
	}{
		"another one is destroyed": {http.StatusNotFound, `{"data": {"data": null, "metadata": {"version": 2, "destroyed": true}}}`},
		"another one is deleted":   {http.StatusNotFound, `{"data": {"data": null, "metadata": {"version": 2, "deletion_time": "2026-11-22T09:00:00Z"}}}`},
		"another one is there":     {http.StatusOK, `{"data": {"data": {"clientSecret": "sk_live_of_before"}, "metadata": {"version": 2}}}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr, _ := answering(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(tt.status)
				_, _ = w.Write([]byte(tt.answer))
			})
			s, err := newClient(t, Config{Addr: addr, Token: "t", Mount: "secret"}).Read(t.Context(), place(), 1)
			requireUnavailable(t, err)
			require.NotErrorIs(t, err, secret.ErrGone)
			require.Empty(t, s)
		})
	}
}

func TestAnOperatorsTokenThatIsRefusedIsNotSentAgain(t *testing.T) {
	t.Parallel()
	addr, asked := answering(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
	requireUnavailable(t, newClient(t, Config{Addr: addr, Token: "t", Mount: "secret"}).Ready(t.Context()))
	require.EqualValues(t, 1, asked.Load())
}

func TestWhoHasAGoodTokenWaitsForNoLogin(t *testing.T) {
	t.Parallel()
	entered, goOn := make(chan struct{}), make(chan struct{})
	var logins atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/auth/kubernetes/login" {
			return
		}
		if logins.Add(1) > 1 {
			close(entered)
			<-goOn
		}
		_, _ = w.Write([]byte(`{"auth": {"client_token": "t", "lease_duration": 60}}`))
	}))
	t.Cleanup(server.Close)
	release := sync.OnceFunc(func() { close(goOn) })
	t.Cleanup(release)
	file := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(file, []byte("jwt"), 0o600))
	c := newClient(t, Config{Addr: config.URL(server.URL), KubernetesMount: "kubernetes", KubernetesRole: "r", KubernetesToken: file})
	require.NoError(t, c.Ready(t.Context()))
	done := make(chan error, 1)
	go func() {
		_, err := c.loginAgain(t.Context())
		done <- err
	}()
	<-entered
	err := c.Ready(t.Context())
	select {
	case ended := <-done:
		require.Fail(t, "the request has waited for the login", "%v", ended)
	default:
	}
	require.NoError(t, err)
	release()
	require.NoError(t, <-done)
}

func TestAVaultThatIsAwayIsUnavailableInTime(t *testing.T) {
	t.Parallel()
	hanging, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = hanging.Close() })
	strange := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/proxy/v1/auth/token/lookup-self":
			http.Redirect(w, r, "https://elsewhere.example/", http.StatusTemporaryRedirect)
		default:
			_, _ = w.Write([]byte(`{"data": {"data": "sk_live_of_somebody"`))
		}
	}))
	t.Cleanup(strange.Close)
	for name, addr := range map[string]string{
		"nobody listens": "http://127.0.0.1:1", "nobody answers": "http://" + hanging.Addr().String(), "another answers": strange.URL + "/proxy/",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newClient(t, Config{Addr: config.URL(addr), Token: "t", Mount: "secret"})
			began := time.Now()
			_, err := c.Read(t.Context(), place(), 1)
			requireUnavailable(t, err)
			require.Less(t, time.Since(began), timeout+time.Second)
			require.NotContains(t, err.Error(), "sk_live")
			_, err = c.Write(t.Context(), place(), secret.Generate())
			requireUnavailable(t, err)
			requireUnavailable(t, c.Ready(t.Context()))
		})
	}
}

func TestVaultIsBelievedByTheAuthoritiesThatAreNamed(t *testing.T) {
	t.Parallel()
	var namespace string
	server := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { namespace = r.Header.Get("X-Vault-Namespace") }))
	t.Cleanup(server.Close)
	cfg := Config{Addr: config.URL(server.URL), Token: "t", Mount: "secret", Namespace: "team"}
	requireUnavailable(t, newClient(t, cfg).Ready(t.Context()))
	cfg.CACert = filepath.Join(t.TempDir(), "ca.pem")
	own := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	require.NoError(t, os.WriteFile(cfg.CACert, own, 0o600))
	require.NoError(t, newClient(t, cfg).Ready(t.Context()))
	require.Equal(t, "team", namespace)

	require.NoError(t, os.WriteFile(cfg.CACert, []byte("nothing"), 0o600))
	for _, file := range []string{cfg.CACert, "/nowhere"} {
		cfg.CACert = file
		_, err := New(cfg, telemetry.Discard("test").Log, nil)
		require.ErrorContains(t, err, "VAULT_CACERT")
	}
}

func TestThereIsOneWayInAndNoSettingGoesUnnoticed(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		env   map[string]string
		wrong string // the setting that the error names, "" for none
	}{
		"no Vault":                   {map[string]string{}, ""},
		"a token":                    {map[string]string{"VAULT_ADDR": "http://vault:8200", "VAULT_TOKEN": "t"}, ""},
		"a service account":          {map[string]string{"VAULT_ADDR": "https://vault:8200", "VAULT_KUBERNETES_ROLE": "r", "VAULT_MOUNT": "teams/idp"}, ""},
		"a token and no address":     {map[string]string{"VAULT_TOKEN": "t"}, "VAULT_TOKEN:"},
		"a role and no address":      {map[string]string{"VAULT_KUBERNETES_ROLE": "r"}, "VAULT_KUBERNETES_ROLE:"},
		"no way in":                  {map[string]string{"VAULT_ADDR": "http://vault:8200"}, "VAULT_TOKEN:"},
		"two ways in":                {map[string]string{"VAULT_ADDR": "http://vault:8200", "VAULT_TOKEN": "t", "VAULT_KUBERNETES_ROLE": "r"}, "VAULT_TOKEN:"},
		"no URL":                     {map[string]string{"VAULT_ADDR": "vault:8200", "VAULT_TOKEN": "t"}, "VAULT_ADDR"},
		"a mount with slashes":       {map[string]string{"VAULT_ADDR": "http://vault:8200", "VAULT_TOKEN": "t", "VAULT_MOUNT": "/secret/"}, "VAULT_MOUNT:"},
		"a mount that leads astray":  {map[string]string{"VAULT_ADDR": "http://vault:8200", "VAULT_TOKEN": "t", "VAULT_MOUNT": "a/../sys"}, "VAULT_MOUNT:"},
		"a mount with a question":    {map[string]string{"VAULT_ADDR": "http://vault:8200", "VAULT_TOKEN": "t", "VAULT_KUBERNETES_MOUNT": "k?x"}, "VAULT_KUBERNETES_MOUNT:"},
		"a token that must not show": {map[string]string{"VAULT_TOKEN": "hvs.secret"}, "VAULT_TOKEN:"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var cfg Config
			err := config.Load(&cfg, testkit.Environment(tt.env))
			if tt.wrong == "" {
				require.NoError(t, err)
				require.Equal(t, tt.env["VAULT_ADDR"] != "", cfg.Enabled())
				return
			}
			var wrong *config.Error
			require.ErrorAs(t, err, &wrong)
			require.True(t, strings.HasPrefix(wrong.Problems[0], tt.wrong), err)
			require.NotContains(t, err.Error(), "hvs.secret")
		})
	}
}

func TestARequestThatIsGivenUpIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	c := newClient(t, Config{Addr: "http://127.0.0.1:1", KubernetesRole: "r", Mount: "secret"})
	c.turn <- struct{}{} // somebody is logging in
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.True(t, errors.Is(c.Ready(ctx), context.Canceled))
}
