package main

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/devservers"
)

// What every run of all tests does, unless FAULT_DURATION says otherwise; `make fault` does others.
const (
	seedOfCI     = 1
	durationOfCI = 2 * time.Minute
)

// TestTheBooksBalanceWhateverIsKilled takes a minute more than FAULT_DURATION, and is skipped without it: test/run, which
// `make test` calls, sets it.
func TestTheBooksBalanceWhateverIsKilled(t *testing.T) {
	given := os.Getenv("FAULT_DURATION")
	if given == "" {
		// Left out of a plain `go test ./...` only, for it takes three minutes; every run of test/run, and so of CI, has it.
		t.Skip("takes minutes: make fault, or FAULT_DURATION=2m")
	}
	duration, err := time.ParseDuration(given)
	require.NoError(t, err)
	if missing := devservers.Missing(); len(missing) > 0 && os.Getenv("CI") == "" {
		t.Skipf("not installed: %s", missing)
	}
	ctx, cancel := context.WithTimeout(context.Background(), duration+5*time.Minute)
	defer cancel()
	require.NoError(t, options{duration: duration, seed: seedOfCI}.run(ctx, t.Output()))
}
