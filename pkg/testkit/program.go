package testkit

import (
	"bytes"
	"context"
	"io"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// RequireCommands holds the program of a service against what every one does: of its commands those that every service
// has and those that stand alone take no arguments, and help tells of all, of the others as it writes them. Help
// is what it answers to asked, besides what asks every service for it.
func RequireCommands(tb testing.TB, run func(ctx context.Context, out io.Writer, args []string) error, alone, others []string, asked ...[]string) {
	tb.Helper()
	alone = append([]string{"serve", "migrate", "healthcheck", "readycheck"}, alone...)
	for _, command := range alone {
		require.EqualError(tb, run(tb.Context(), nil, []string{command, "--dry-run"}), command+`: does not take "--dry-run"`)
	}
	for _, args := range append(asked, []string{"--help"}, []string{"migrate", "--help"}) {
		var out bytes.Buffer
		require.NoError(tb, run(tb.Context(), &out, args), args)
		for _, command := range slices.Concat(alone, others) {
			require.Contains(tb, out.String(), command, args)
		}
	}
}
