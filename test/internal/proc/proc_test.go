package proc

import (
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// line is a stat file of a process whose name is made to confuse.
func line(ppid, utime, stime, cutime, cstime int) string {
	field := strconv.Itoa
	return "7 (a) (b c) S " + field(ppid) + " 7 7 0 -1 4194560 1 2 3 4 " +
		field(utime) + " " + field(stime) + " " + field(cutime) + " " + field(cstime) + " 20 0 1 0 100 1000 10\n"
}

func TestTheStatOfAProcessIsRead(t *testing.T) {
	t.Parallel()
	got, err := parseStat([]byte(line(3, 150, 50, 7, 3)))
	require.NoError(t, err)
	require.Equal(t, stat{parent: 3, own: 2 * time.Second, reaped: 100 * time.Millisecond}, got)

	for _, broken := range []string{"", "7 noname S 1", "7 (a) S 1 2 3", "7 (a) S x 7 7 0 -1 0 1 2 3 4 1 1 1 1 0"} {
		_, err := parseStat([]byte(broken))
		require.Error(t, err, broken)
	}
}

func TestWhatTheHypervisorGaveToOthersIsRead(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for content, want := range map[string]time.Duration{
		"cpu  10 20 30 40 50 60 70 80 90 100\ncpu0 1 1 1 1 1 1 1 1 1 1\n": 800 * time.Millisecond,
		"cpu  10 20 30\n":               -1,
		"cpu  10 20 30 40 50 60 70 x\n": -1,
		"intr 1 2 3 4 5 6 7 8 9\n":      -1,
	} {
		require.NoError(t, os.WriteFile(filepath.Join(root, "stat"), []byte(content), 0o644))
		got, err := Stolen(root)
		if want < 0 {
			require.Error(t, err, content)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	_, err := Stolen(t.TempDir())
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = Stolen(Root)
	require.NoError(t, err)
}

// processes is a proc filesystem with these stat files.
func processes(t *testing.T, stats map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for pid, content := range stats {
		require.NoError(t, os.MkdirAll(filepath.Join(root, pid), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(root, pid, "stat"), []byte(content), 0o644))
	}
	return root
}

func TestATreeIsTheProcessItsChildrenAndThoseThatEnded(t *testing.T) {
	t.Parallel()
	root := processes(t, map[string]string{
		"10": line(1, 100, 0, 50, 0), // with half a second of children that ended
		"11": line(10, 0, 200, 0, 0),
		"12": line(10, 0, 0, 0, 25),
		"13": line(1, 999, 999, 999, 999), // somebody else's
	})
	require.NoError(t, os.MkdirAll(filepath.Join(root, "self"), 0o755))
	tree, err := TreeCPU(root, 10)
	require.NoError(t, err)
	require.Equal(t, 3750*time.Millisecond, tree)
	own, err := CPU(root, 10)
	require.NoError(t, err)
	require.Equal(t, time.Second, own)
	_, err = TreeCPU(root, 99)
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestTheMemoryOfAProcessIsRead(t *testing.T) {
	t.Parallel()
	got, err := parseStatus([]byte("Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\nThreads:\t1\n"))
	require.NoError(t, err)
	require.Equal(t, Memory{RSS: 1 << 20, Peak: 2 << 20}, got)
	for _, broken := range []string{"Name:\tx\n", "Name:\tx\nVmRSS:\t12 MB\nVmHWM:\t12 kB\n", "Name:\tx\nVmRSS:\tx kB\n"} {
		_, err := parseStatus([]byte(broken))
		require.Error(t, err, broken)
	}
}

func TestTheMemoryOfTheMachineIsRead(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	_, err := TotalMemory(root)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.NoError(t, os.WriteFile(filepath.Join(root, "meminfo"), []byte("MemTotal:       24626728 kB\nMemFree: 1 kB\n"), 0o600))
	total, err := TotalMemory(root)
	require.NoError(t, err)
	require.Equal(t, int64(24626728<<10), total)
}

func TestThisProcessHasCostSomething(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("there is no proc filesystem here")
	}
	memory, err := MemoryOf(Root, os.Getpid())
	require.NoError(t, err)
	require.Positive(t, memory.RSS)
	require.GreaterOrEqual(t, memory.Peak, memory.RSS)
	_, err = TreeCPU(Root, os.Getpid())
	require.NoError(t, err)
}
