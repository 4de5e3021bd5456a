package devservers_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/devservers"
)

const patient = 60 * time.Second

func setup(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patient)
	t.Cleanup(cancel)
	return ctx
}

// startPostgres skips where no Postgres is installed, and fails there in CI.
func startPostgres(ctx context.Context, t *testing.T, cfg devservers.PostgresConfig) *devservers.Postgres {
	t.Helper()
	server, err := devservers.StartPostgres(ctx, cfg)
	if errors.Is(err, devservers.ErrNotFound) && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	require.NoError(t, err)
	t.Cleanup(server.Stop)
	return server
}

func exec1(ctx context.Context, t *testing.T, url, sql string) {
	t.Helper()
	conn, err := pgx.Connect(ctx, url)
	require.NoError(t, err)
	defer func() { _ = conn.Close(ctx) }()
	_, err = conn.Exec(ctx, sql)
	require.NoError(t, err)
}

func ask(ctx context.Context, t *testing.T, url, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(ctx, url)
	require.NoError(t, err)
	defer func() { _ = conn.Close(ctx) }()
	var answer string
	require.NoError(t, conn.QueryRow(ctx, sql).Scan(&answer))
	return answer
}

// privateDir is a folder that only its owner may enter, as mktemp -d makes it, and below it one
// that does not exist.
func privateDir(t *testing.T) string {
	t.Helper()
	parent, err := os.MkdirTemp("", "agentidp-private-")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(parent, 0o700))
	t.Cleanup(func() { _ = os.RemoveAll(parent) })
	return filepath.Join(parent, "state", "postgres")
}

func TestPostgresKeepsItsDataBelowAFolderThatOnlyItsOwnerMayEnter(t *testing.T) {
	t.Parallel()
	ctx := setup(t)
	var said bytes.Buffer
	cfg := devservers.PostgresConfig{Dir: privateDir(t), Password: "p'a ss", Fsync: true, Log: &said}
	server := startPostgres(ctx, t, cfg)
	if server.Dir() != cfg.Dir { // root without the capability to let another user in
		t.Cleanup(func() { _ = os.RemoveAll(server.Dir()) })
		require.Contains(t, said.String(), "its data is in "+server.Dir())
		return
	}
	require.Equal(t, "127.0.0.1", ask(ctx, t, server.AdminURL(), "SHOW listen_addresses"))
	require.Empty(t, ask(ctx, t, server.AdminURL(), "SHOW unix_socket_directories"))
	require.Equal(t, "on", ask(ctx, t, server.AdminURL(), "SHOW fsync"))
	exec1(ctx, t, server.AdminURL(), "CREATE TABLE kept AS SELECT 'still here' AS word")
	server.Stop()
	server.Stop() // harmless
	<-server.Done()

	again := startPostgres(ctx, t, cfg)
	require.Equal(t, "still here", ask(ctx, t, again.AdminURL(), "SELECT word FROM kept"))
	again.Stop()

	cfg.Password = "another"
	_, err := devservers.StartPostgres(ctx, cfg)
	require.ErrorContains(t, err, "another password")
}

func TestPostgresLetsNobodyInWithoutThePassword(t *testing.T) {
	t.Parallel()
	ctx := setup(t)
	server := startPostgres(ctx, t, devservers.PostgresConfig{Dir: privateDir(t), Password: "right"})
	_, err := pgx.Connect(ctx, server.URL(devservers.Superuser, "wrong", "postgres"))
	require.ErrorContains(t, err, "28P01")
	require.Equal(t, server.AdminURL(), server.URL(devservers.Superuser, "", "postgres"))
}

func TestPostgresSaysWhyItCannotStart(t *testing.T) {
	t.Parallel()
	ctx := setup(t)
	server := startPostgres(ctx, t, devservers.PostgresConfig{Dir: privateDir(t), Password: "x"})
	taken := portOf(t, server.AdminURL())
	dir := privateDir(t)
	_, err := devservers.StartPostgres(ctx, devservers.PostgresConfig{Dir: dir, Password: "x", Port: taken})
	require.ErrorContains(t, err, "cannot be used")

	// The settings of the cluster are read by the server itself, which says what it thinks of them.
	require.NoError(t, os.WriteFile(filepath.Join(dir, "postgresql.auto.conf"), []byte("no_such_setting = 1\n"), 0o600))
	var said bytes.Buffer
	_, err = devservers.StartPostgres(ctx, devservers.PostgresConfig{Dir: dir, Password: "x", Log: &said})
	require.ErrorContains(t, err, "no_such_setting")
	require.Contains(t, said.String(), "no_such_setting")

	_, err = devservers.StartPostgres(ctx, devservers.PostgresConfig{Dir: privateDir(t)})
	require.ErrorContains(t, err, "password")
}

const childDir = "DEVSERVERS_TEST_CHILD_DIR"

// TestServerProcess is a program with servers, which the test below kills. By itself it does nothing.
func TestServerProcess(t *testing.T) {
	dir := os.Getenv(childDir)
	if dir == "" {
		t.Skip("only as a child of the test that kills it")
	}
	ctx := context.Background()
	pg, err := devservers.StartPostgres(ctx, devservers.PostgresConfig{Dir: filepath.Join(dir, "pg"), Password: "x"})
	require.NoError(t, err)
	redis, err := devservers.StartRedis(ctx, devservers.RedisConfig{Dir: filepath.Join(dir, "redis")})
	require.NoError(t, err)
	_, _ = fmt.Fprintf(os.Stdout, "running %s %s\n", pg.AdminURL(), redis.URL())
	_, _ = io.Copy(io.Discard, os.Stdin) // until it is killed
}

func TestNoServerOutlivesAKilledProgram(t *testing.T) {
	t.Parallel()
	ctx := setup(t)
	dir := filepath.Dir(privateDir(t))
	startPostgres(ctx, t, devservers.PostgresConfig{Dir: filepath.Join(dir, "other"), Password: "x"}).Stop() // or skip
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestServerProcess$")                             // #nosec G204 -- this very test binary
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	defer func() { _ = stdin.Close() }()
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	words := strings.Fields(line)
	require.Len(t, words, 3, line)

	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	// At once, as a user does: the next start waits for what is still there.
	pg := startPostgres(ctx, t, devservers.PostgresConfig{Dir: filepath.Join(dir, "pg"), Password: "x", Port: portOf(t, words[1])})
	require.Equal(t, words[1], pg.AdminURL())
	redis := startRedis(ctx, t, devservers.RedisConfig{Dir: filepath.Join(dir, "redis"), Port: portOf(t, words[2])})
	require.Equal(t, words[2], redis.URL())
	pg.Stop()
	redis.Stop()
	for _, url := range words[1:] {
		port := portOf(t, url)
		require.Eventually(t, func() bool {
			conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second)
			if err == nil {
				_ = conn.Close()
			}
			return err != nil
		}, patient, 10*time.Millisecond, "%s is still served", url)
	}
}

func portOf(t *testing.T, url string) int {
	t.Helper()
	var port int
	_, rest, _ := strings.Cut(url, "127.0.0.1:")
	_, err := fmt.Sscanf(rest, "%d", &port)
	require.NoError(t, err, url)
	return port
}
