package main

import (
	"testing"

	"github.com/sentryagent/agentidp/pkg/testkit"
)

func TestTheCommandsAreThoseOfAService(t *testing.T) {
	t.Parallel()
	testkit.RequireCommands(t, program().Run, nil, []string{"keys list", "keys rotate", "keys retire"},
		[]string{"keys", "--help"}, []string{"keys", "retire", "--help"})
}
