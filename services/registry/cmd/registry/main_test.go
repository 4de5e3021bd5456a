package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestACommandSaysWhatItLacks(t *testing.T) {
	t.Setenv("ISSUER", "")
	t.Setenv("REGISTRY_ISSUER", "")
	t.Setenv("MIGRATE_DATABASE_URL", "")
	t.Setenv("REGISTRY_MIGRATE_DATABASE_URL", "")
	require.ErrorContains(t, run(t.Context(), "serve"), "ISSUER")
	require.ErrorContains(t, run(t.Context(), "migrate"), "MIGRATE_DATABASE_URL")
	require.ErrorContains(t, run(t.Context(), "help"), `unknown command "help"`)
}
