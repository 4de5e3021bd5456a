package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/devservers"
)

// clean gives run an environment without servers and a directory for temporary files of its own.
func clean(t *testing.T) (tmp string) {
	t.Helper()
	if missing := devservers.Missing(); len(missing) > 0 && os.Getenv("CI") == "" {
		t.Skipf("not installed: %s", missing)
	}
	for _, env := range []string{postgresEnv, redisEnv, passwordEnv} {
		t.Setenv(env, "")
	}
	tmp = t.TempDir()
	t.Setenv("TMPDIR", tmp)
	return tmp
}

func TestTheCommandGetsServersAndItsExitCodeIsPassedOn(t *testing.T) {
	tmp := clean(t)
	out := capture(t, func() {
		require.Equal(t, 7, run([]string{"--", "sh", "-c", `echo "$TEST_DATABASE_URL $TEST_REDIS_URL"; ls "$TMPDIR"/*/postgres/PG_VERSION; exit 7`}))
	})
	require.Contains(t, out, "postgres://postgres:")
	require.Contains(t, out, " redis://127.0.0.1:")
	require.Contains(t, out, "PG_VERSION")
	left, err := filepath.Glob(filepath.Join(tmp, "*"))
	require.NoError(t, err)
	require.Empty(t, left, "the servers' data is left")
}

func TestServersThatAreThereAlreadyAreKept(t *testing.T) {
	clean(t)
	t.Setenv(postgresEnv, "postgres://mine")
	t.Setenv(redisEnv, "redis://mine")
	out := capture(t, func() {
		require.Equal(t, 0, run([]string{"-install", "--", "sh", "-c", `echo "$TEST_DATABASE_URL $TEST_REDIS_URL"`}))
	})
	require.Equal(t, "postgres://mine redis://mine", strings.TrimSpace(out))
}

func TestACommandThatDiesOrIsNotThereIsReported(t *testing.T) {
	clean(t)
	t.Setenv(postgresEnv, "postgres://mine")
	t.Setenv(redisEnv, "redis://mine")
	require.Equal(t, 128+9, run([]string{"--", "sh", "-c", "kill -9 $$"}))
	require.Equal(t, exitNotStarted, run([]string{"--", "/no/such/program"}))
	require.Equal(t, exitNotStarted, run([]string{"--"}))
	require.Equal(t, exitNotStarted, run([]string{"-no-such-flag"}))
}

// capture answers what do writes to standard output.
func capture(t *testing.T, do func()) string {
	t.Helper()
	read, write, err := os.Pipe()
	require.NoError(t, err)
	saved := os.Stdout
	os.Stdout = write
	defer func() { os.Stdout = saved }()
	do()
	require.NoError(t, write.Close())
	out, err := io.ReadAll(read)
	require.NoError(t, err)
	return string(out)
}
