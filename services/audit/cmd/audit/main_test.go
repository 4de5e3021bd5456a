package main

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestACommandRefusesWhatItDoesNotTake(t *testing.T) {
	t.Parallel()
	for _, command := range []string{"serve", "migrate", "healthcheck", "readycheck", "retention"} {
		require.EqualError(t, run(t.Context(), nil, []string{command, "--dry-run"}), command+`: does not take "--dry-run"`)
	}
}

func TestHelpTellsOfEveryCommand(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"--help"}, {"retention", "--help"}, {"keygen", "--help"}} {
		var out bytes.Buffer
		require.NoError(t, run(t.Context(), &out, args), args)
		for _, command := range []string{"serve", "migrate", "healthcheck", "readycheck", "retention", "keygen ORIGIN"} {
			require.Contains(t, out.String(), command, args)
		}
	}
}
