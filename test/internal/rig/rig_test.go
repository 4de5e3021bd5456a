package rig

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestStatisticsOfRedisAreRead(t *testing.T) {
	t.Parallel()
	got, err := parseCommandStats(map[string]string{
		"cmdstat_evalsha": "calls=21,usec=175,usec_per_call=8.33", "cmdstat_config|get": "calls=1",
	})
	require.NoError(t, err)
	require.Equal(t, map[string]int64{"evalsha": 21, "config|get": 1}, got)
	_, err = parseCommandStats(map[string]string{"cmdstat_get": "usec=1"})
	require.ErrorContains(t, err, "cmdstat_get")
}

func TestAServiceIsToldOfAllOthers(t *testing.T) {
	t.Parallel()
	root, err := FindRoot()
	require.NoError(t, err)
	require.FileExists(t, filepath.Join(root, "go.work"))
	require.Equal(t, "0", LimitsOff()["RATE_LIMIT_PER_MINUTE"])
	for name := range LimitsOn() {
		require.Contains(t, LimitsOff(), name, "a limit that is counted in one run is off in the others")
	}
}

const (
	waitFor = 20 * time.Second
	tick    = 5 * time.Millisecond
)

func start(t *testing.T, script string) *child {
	t.Helper()
	c, err := startChild("sh", filepath.Join(t.TempDir(), "log"), exec.Command("sh", "-c", script))
	require.NoError(t, err)
	return c
}

func TestAProgramIsAskedToEnd(t *testing.T) {
	t.Parallel()
	c := start(t, `trap 'echo bye; exit 0' TERM; echo ready; sleep 60 & wait`)
	require.Eventually(t, func() bool { return c.lastWords() != "" }, waitFor, tick)
	require.NoError(t, c.ended())
	require.NoError(t, c.stop())
	require.Equal(t, "ready\nbye\n", c.lastWords())
}

func TestAProgramThatFailsIsReportedWithItsLastWords(t *testing.T) {
	t.Parallel()
	c := start(t, "echo it hurts >&2; exit 3")
	<-c.done
	require.ErrorContains(t, c.ended(), "it hurts")
	require.ErrorContains(t, c.stop(), "exit status 3")
	_, err := startChild("nothing", filepath.Join(t.TempDir(), "log"), exec.Command("/nonexistent"))
	require.ErrorContains(t, err, "start nothing")
}

func TestOnlyALargeLogIsEmptied(t *testing.T) {
	t.Parallel()
	log := filepath.Join(t.TempDir(), "log")
	require.NoError(t, trimLog(log), "there is none yet")
	require.NoError(t, os.WriteFile(log, []byte("small"), 0o600))
	require.NoError(t, trimLog(log))
	require.NoError(t, os.Truncate(log, 65<<20))
	require.NoError(t, trimLog(log))
	info, err := os.Stat(log)
	require.NoError(t, err)
	require.Zero(t, info.Size())
}
