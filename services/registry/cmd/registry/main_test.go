package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/testkit"
)

func TestACommandSaysWhatItLacks(t *testing.T) {
	t.Setenv("ISSUER", "")
	t.Setenv("REGISTRY_ISSUER", "")
	t.Setenv("MIGRATE_DATABASE_URL", "")
	t.Setenv("REGISTRY_MIGRATE_DATABASE_URL", "")
	require.ErrorContains(t, program().Run(t.Context(), nil, nil), "ISSUER")
	require.ErrorContains(t, program().Run(t.Context(), nil, []string{"migrate"}), "MIGRATE_DATABASE_URL")
	require.ErrorContains(t, program().Run(t.Context(), nil, []string{"nosuch"}), `unknown command "nosuch"`)
}

func TestTheCommandsAreThoseOfAService(t *testing.T) {
	t.Parallel()
	testkit.RequireCommands(t, program().Run, nil, nil)
}
