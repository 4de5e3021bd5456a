// Command registry runs the registry service: `registry serve` (the default), `registry migrate`, or `registry
// healthcheck` and `readycheck`, which ask the one that runs. It takes its settings from the environment.
package main

import (
	"github.com/sentryagent/agentidp/pkg/replica"
	"github.com/sentryagent/agentidp/services/registry"
)

func main() { replica.Main(program()) }

func program() replica.Program {
	return replica.Program{Service: "registry", Serve: replica.Serving(registry.LoadConfig, registry.New)}
}
