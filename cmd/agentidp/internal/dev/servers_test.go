package dev

import (
	"context"
	"crypto/rand"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/devservers"
	"github.com/sentryagent/agentidp/pkg/testkit"
)

// requireServers skips a test on a machine without the server programs, unless CI promised them.
func requireServers(t *testing.T) {
	t.Helper()
	missing := devservers.Missing()
	if len(missing) == 0 {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatalf("not installed: %v", missing)
	}
	t.Skipf("not installed: %v (agentidp setup installs them)", missing)
}

// serversIn are the servers of a fresh data directory, with the programs' settings computed.
func serversIn(t *testing.T, out *testkit.Log) *servers {
	t.Helper()
	dir, err := openDataDir(t.TempDir(), false)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, dir.close()) })
	k, err := loadKeys(dir.join("secrets"), rand.Reader, false)
	require.NoError(t, err)
	ports, err := takePorts(t.Context(), portsNeeded(4))
	require.NoError(t, err)
	t.Cleanup(ports.release)
	l, err := makeLayout(layoutInput{
		programs: fakePrograms(), environ: lookup(nil), baseURL: "http://127.0.0.1:1", keys: k, ports: ports.ports,
	})
	require.NoError(t, err)
	logs := newLogs(dir.join("logs"), nil)
	t.Cleanup(func() { require.NoError(t, logs.close()) })
	s := &servers{layout: l, keys: k, dir: dir, progress: newProgress(out, time.Now), logs: logs}
	t.Cleanup(s.close)
	return s
}

func TestServersComeUpWithSchemasAndComeBackWhenKilled(t *testing.T) {
	t.Parallel()
	requireServers(t)
	var out testkit.Log
	s := serversIn(t, &out)
	require.NoError(t, s.start(t.Context()))
	require.NoError(t, s.migrate(t.Context()))
	for _, line := range []string{"PostgreSQL", "Redis", "NATS", "schemas"} {
		require.Contains(t, out.String(), line)
	}
	url := toldTo(t, s.layout, "registry", nil).DatabaseURL.Reveal()
	require.NoError(t, ping(t.Context(), url), "a service gets in as its own role")

	pid, err := os.ReadFile(s.dir.join("postgres", "postmaster.pid"))
	require.NoError(t, err)
	first, _, _ := strings.Cut(string(pid), "\n")
	number, err := strconv.Atoi(first)
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(number, syscall.SIGKILL))

	require.Eventually(t, func() bool { return strings.Contains(out.String(), "PostgreSQL ended by itself") },
		30*time.Second, 20*time.Millisecond)
	require.Eventually(t, func() bool { return ping(t.Context(), url) == nil }, 60*time.Second, 50*time.Millisecond)
	require.NoError(t, s.migrate(t.Context()), "a second start finds its schemas")
	s.close()
	require.Error(t, ping(t.Context(), url), "and nothing runs after the end")
}

func ping(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	return conn.Ping(ctx)
}
