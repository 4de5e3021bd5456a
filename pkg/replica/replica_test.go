package replica_test

import (
	"context"
	"errors"
	"net/http"
	"runtime/debug"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/httpx"
	"github.com/sentryagent/agentidp/pkg/replica"
	"github.com/sentryagent/agentidp/pkg/testkit"
	"github.com/sentryagent/agentidp/pkg/testkit/testca"
)

const service = "registry"

// environment is that of a service whose every dependency is away, changed by the given settings.
func environment(changes map[string]string) config.Option {
	env := map[string]string{
		"PUBLIC_ADDR": "127.0.0.1:0", "INTERNAL_ADDR": "127.0.0.1:0", "INTERNAL_API_TOKEN": "an-internal-token-for-tests",
		"DATABASE_URL": "postgres://nobody@127.0.0.1:1/none", "REDIS_URL": "redis://127.0.0.1:1", "NATS_URL": "nats://127.0.0.1:1",
		"ISSUER": "http://127.0.0.1", "DRAIN_DELAY": "0s",
	}
	for name, value := range changes {
		env[name] = value
	}
	return testkit.Environment(env)
}

func open(t *testing.T) (*replica.Replica, *httpx.Server) {
	t.Helper()
	var cfg replica.Config
	require.NoError(t, replica.Load(service, &cfg, environment(nil)))
	r, err := replica.Open(t.Context(), service, cfg)
	require.NoError(t, err)
	server, err := r.Server([]byte("openapi: 3.0.3"), func(context.Context) error { return nil })
	require.NoError(t, err)
	require.NoError(t, server.Listen())
	return r, server
}

func TestAReplicaStartsWithoutItsDependenciesAndItsWorkersEndAfterTheServer(t *testing.T) {
	t.Parallel()
	r, server := open(t)
	health := "http://" + server.PublicAddr() + "/healthz"
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	served := make(chan error, 1)
	go func() {
		ended <- r.Run(ctx, server, replica.Work{AtOnce: []func(context.Context) error{func(work context.Context) error {
			<-work.Done()
			resp, err := http.Get(health)
			if err == nil {
				err = resp.Body.Close()
			}
			served <- err
			return nil
		}}})
	}()
	require.Eventually(t, func() bool {
		resp, err := http.Get(health)
		if err != nil {
			return false
		}
		return resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
	}, 10*time.Second, 10*time.Millisecond)
	stop()
	require.NoError(t, <-ended)
	require.Error(t, <-served, "a worker was told to end while the server still answered")
}

func TestGarbageIsCollectedLaterUnlessTheEnvironmentSaysWhen(t *testing.T) {
	for says, want := range map[string]int{"": 200, "70": 70} {
		t.Setenv("GOGC", says)
		before := debug.SetGCPercent(70)
		r, _ := open(t)
		r.Close()
		require.Equal(t, want, debug.SetGCPercent(before))
	}
}

func TestAWorkerThatFailsStopsTheReplica(t *testing.T) {
	t.Parallel()
	r, server := open(t)
	failure := errors.New("the watch is broken")
	fails := replica.Work{AtOnce: []func(context.Context) error{func(context.Context) error { return failure }}}
	require.ErrorIs(t, r.Run(t.Context(), server, fails), failure)
	_, err := http.Get("http://" + server.PublicAddr() + "/healthz")
	require.Error(t, err)
}

func TestAPrefixedSettingIsTheServicesOwn(t *testing.T) {
	t.Parallel()
	var cfg replica.Config
	require.NoError(t, replica.Load(service, &cfg, environment(map[string]string{"REGISTRY_LOG_LEVEL": "debug", "TOKEN_LOG_LEVEL": "error"})))
	require.Equal(t, "debug", cfg.Telemetry.LogLevel)
}

func TestAReplicaThatCannotBeOpenedSaysWhat(t *testing.T) {
	t.Parallel()
	for part, spoil := range map[string]func(*replica.Config){
		"postgres": func(c *replica.Config) { c.Database.URL = "postgres://%zz" },
		"redis":    func(c *replica.Config) { c.Redis.URL = "ftp://nowhere" },
	} {
		var cfg replica.Config
		require.NoError(t, replica.Load(service, &cfg, environment(nil)))
		spoil(&cfg)
		_, err := replica.Open(t.Context(), service, cfg)
		require.ErrorContains(t, err, part)
	}
}

func TestMigrateNeedsTheOwnersURLAndNothingElse(t *testing.T) {
	t.Parallel()
	only := func(url string) config.Option {
		return testkit.Environment(map[string]string{"MIGRATE_DATABASE_URL": url})
	}
	require.ErrorContains(t, replica.Migrate(t.Context(), service, only("")), "MIGRATE_DATABASE_URL")
	database := testkit.Postgres(t, service)
	require.NoError(t, replica.Migrate(t.Context(), service, only(database.OwnerURL)), "a schema that is up to date stays as it is")
	require.ErrorContains(t, replica.Migrate(t.Context(), service, only("postgres://nobody@127.0.0.1:1/none")), "migrate")
}

func TestWithTLSEveryPeerIsAskedOverIt(t *testing.T) {
	t.Parallel()
	authority, dir := testca.NewAuthority(t), t.TempDir()
	authority.Issue(t).Write(t, dir, authority)
	for url, refused := range map[config.URL]bool{"http://token:9090": true, "HTTP://token:9090": true, "https://token:9090": false, "HTTPS://token:9090": false} {
		var cfg replica.Config
		require.NoError(t, replica.Load(service, &cfg, environment(testca.Settings(dir))))
		r, err := replica.Open(t.Context(), service, cfg)
		require.NoError(t, err)
		r.Peer("token", url)
		server, err := r.Server([]byte("openapi: 3.0.3"), func(context.Context) error { return nil })
		require.NoError(t, err)
		ctx, stop := context.WithCancel(t.Context())
		stop()
		err = r.Run(ctx, server, replica.Work{})
		if refused {
			require.ErrorContains(t, err, "TOKEN_INTERNAL_URL: must be an https URL")
		} else {
			require.NoError(t, err)
		}
	}
}
