package main

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/devservers"
)

// What every run of all tests does, unless FAULT_DURATION says otherwise; `make fault` and `make roll` do others. Two
// minutes of this seed strike every kind of thing.
const (
	seedOfCI     = 37
	durationOfCI = 2 * time.Minute
)

// Both tests are left out of a plain `go test ./...` only: test/run, which `make test` calls, sets FAULT_DURATION.

func TestTheBooksBalanceWhateverIsKilled(t *testing.T) {
	underLoad(t, func(duration time.Duration) options { return options{duration: duration} })
}

func TestNothingFailsWhileEveryServiceIsReplacedAndScaled(t *testing.T) {
	underLoad(t, func(time.Duration) options { return options{roll: true, how: rolling{drain: drainDelay}} })
}

// underLoad does a run, which may take two minutes more than FAULT_DURATION.
func underLoad(t *testing.T, chosen func(time.Duration) options) {
	t.Helper()
	given := os.Getenv("FAULT_DURATION")
	if given == "" {
		// A plain `go test ./...` is for the seconds between two edits; `make test`, and so CI, always sets it.
		t.Skip("takes minutes: make fault, make roll, or FAULT_DURATION=2m")
	}
	duration, err := time.ParseDuration(given)
	require.NoError(t, err)
	if missing := devservers.MissingForTests(); len(missing) > 0 && os.Getenv("CI") == "" {
		t.Skipf("not installed: %s", missing)
	}
	do := chosen(duration)
	do.seed, do.programs = seedOfCI, t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), do.duration+5*time.Minute)
	defer cancel()
	require.NoError(t, do.run(ctx, t.Output()))
}
