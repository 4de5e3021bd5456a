package devservers

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAProcessThatIsNoServerOfTheDirectoryIsNotTouched(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	other := exec.CommandContext(t.Context(), "sleep", "60")
	other.Dir = dir
	require.NoError(t, other.Start())
	defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
	for name, content := range map[string]string{
		"another program":   strconv.Itoa(other.Process.Pid) + "\n" + dir,
		"this very one":     strconv.Itoa(os.Getpid()),
		"no process":        "999999999",
		"every process":     "-1",
		"not even a number": "?",
	} {
		pidFile := filepath.Join(dir, "server.pid")
		require.NoError(t, os.WriteFile(pidFile, []byte(content), 0o600))
		require.NoError(t, stopLeftover(pidFile, dir, "postgres", syscall.SIGKILL), name)
		require.NoFileExists(t, pidFile, name)
	}
	require.NoError(t, other.Process.Signal(syscall.Signal(0)), "it lives")
	require.NoError(t, stopLeftover(filepath.Join(dir, "absent.pid"), dir, "postgres", syscall.SIGKILL))
	require.Error(t, stopLeftover(dir, dir, "postgres", syscall.SIGKILL), "a pid file that cannot be read")
}

func TestAServerOfTheDirectoryIsStopped(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	program, err := exec.LookPath("sleep")
	require.NoError(t, err)
	raw, err := os.ReadFile(program)
	require.NoError(t, err)
	fake := filepath.Join(t.TempDir(), "postgres")
	require.NoError(t, os.WriteFile(fake, raw, 0o755))
	left := exec.CommandContext(t.Context(), fake, "60")
	left.Dir = dir
	if err := left.Start(); err != nil {
		t.Skipf("programs in %s cannot be run: %v", filepath.Dir(fake), err)
	}
	ended := make(chan struct{})
	go func() { _ = left.Wait(); close(ended) }()
	pidFile := filepath.Join(dir, "postmaster.pid")
	require.NoError(t, os.WriteFile(pidFile, []byte(strconv.Itoa(left.Process.Pid)+"\n"), 0o600))
	if _, err := os.Stat("/proc/self/comm"); err != nil {
		t.Skip("processes cannot be looked at on this system")
	}
	// The kernel names a process after its program a moment after Start has seen the program run.
	if _, err := os.Stat("/proc/self/comm"); err != nil {
		t.Skip("processes cannot be looked at on this system")
	}
	// The kernel names a process after its program a moment after Start has seen the program run.
	require.Eventually(t, func() bool { return isServer(left.Process.Pid, dir, "postgres") }, 10*time.Second, time.Millisecond)
	require.NoError(t, stopLeftover(pidFile, dir, "postgres", syscall.SIGTERM))
	<-ended
	require.NoFileExists(t, pidFile)
}

func TestTheVersionOfAPostgresIsReadFromItsPathAndItsAnswer(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]int{
		"/usr/lib/postgresql/9/bin": 9, "/usr/lib/postgresql/17/bin": 17, "/usr/pgsql-16/bin": 16, "/usr/bin": 0,
	} {
		require.Equal(t, want, versionIn(path), path)
	}
	bin := t.TempDir()
	for answer, want := range map[string]string{
		"postgres (PostgreSQL) 15.13 (Debian 15.13-0)": "15", "postgres (PostgreSQL) 18": "18", "nonsense": "",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(bin, "postgres"), []byte("#!/bin/sh\nprintf '%s' '"+answer+"'\n"), 0o755))
		require.Equal(t, want, postgresMajor(t.Context(), bin), answer)
	}
	require.Empty(t, postgresMajor(t.Context(), t.TempDir()))
	_, err := findPostgres(t.Context(), "7")
	require.ErrorIs(t, err, ErrNotFound)
}

func TestOnlyTheEndOfAServersOutputIsKept(t *testing.T) {
	t.Parallel()
	w := &tailWriter{}
	for range 3 {
		_, err := w.Write([]byte(strings.Repeat("old", tailBytes)))
		require.NoError(t, err)
	}
	_, err := w.Write([]byte("the end\n"))
	require.NoError(t, err)
	require.LessOrEqual(t, len(w.String()), tailBytes)
	require.True(t, strings.HasSuffix(w.String(), "the end"))
}
