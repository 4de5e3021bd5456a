package main

import (
	"testing"

	"github.com/sentryagent/agentidp/pkg/testkit"
)

func TestTheCommandsAreThoseOfAService(t *testing.T) {
	t.Parallel()
	testkit.RequireCommands(t, program().Run, []string{"retention"}, []string{"keygen ORIGIN"}, []string{"retention", "--help"}, []string{"keygen", "--help"})
}
