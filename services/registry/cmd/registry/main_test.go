package main

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestACommandSaysWhatItLacks(t *testing.T) {
	t.Setenv("ISSUER", "")
	t.Setenv("REGISTRY_ISSUER", "")
	t.Setenv("MIGRATE_DATABASE_URL", "")
	t.Setenv("REGISTRY_MIGRATE_DATABASE_URL", "")
	require.ErrorContains(t, run(t.Context(), nil, nil), "ISSUER")
	require.ErrorContains(t, run(t.Context(), nil, []string{"migrate"}), "MIGRATE_DATABASE_URL")
	require.ErrorContains(t, run(t.Context(), nil, []string{"nosuch"}), `unknown command "nosuch"`)
}

func TestACommandRefusesWhatItDoesNotTake(t *testing.T) {
	t.Parallel()
	for _, command := range []string{"serve", "migrate", "healthcheck", "readycheck"} {
		require.EqualError(t, run(t.Context(), nil, []string{command, "--dry-run"}), command+`: does not take "--dry-run"`)
	}
}

func TestHelpTellsOfEveryCommand(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"--help"}, {"migrate", "--help"}} {
		var out bytes.Buffer
		require.NoError(t, run(t.Context(), &out, args), args)
		for _, command := range []string{"serve", "migrate", "healthcheck", "readycheck"} {
			require.Contains(t, out.String(), command, args)
		}
	}
}
