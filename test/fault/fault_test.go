package main

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/devservers"
)

// What every run of all tests does, unless FAULT_DURATION says otherwise; `make fault` and `make roll` do others.
const (
	seedOfCI     = 1
	durationOfCI = 2 * time.Minute
)

// TestTheProgramsUnderLoad takes two minutes more than FAULT_DURATION, and is skipped without it: test/run, which
// `make test` calls, sets it.
func TestTheProgramsUnderLoad(t *testing.T) {
	given := os.Getenv("FAULT_DURATION")
	if given == "" {
		// Left out of a plain `go test ./...` only, for it takes four minutes; every run of test/run, and so of CI, has it.
		t.Skip("takes minutes: make fault, make roll, or FAULT_DURATION=2m")
	}
	duration, err := time.ParseDuration(given)
	require.NoError(t, err)
	if missing := devservers.MissingForTests(); len(missing) > 0 && os.Getenv("CI") == "" {
		t.Skipf("not installed: %s", missing)
	}
	programs := t.TempDir() // are built once
	for _, c := range []struct {
		name string
		do   options
	}{
		{"the books balance whatever is killed", options{duration: duration}},
		{"nothing fails while every service is replaced and scaled", options{roll: true, how: rolling{drain: drainDelay}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), c.do.duration+5*time.Minute)
			defer cancel()
			c.do.seed, c.do.programs = seedOfCI, programs
			require.NoError(t, c.do.run(ctx, t.Output()))
		})
	}
}
