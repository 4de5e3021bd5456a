// Command credentials runs the credentials service (serve, the default), brings its
// schema up to date (migrate), or asks the one that runs whether it is alive
// (healthcheck) or can answer (readycheck). Its settings come from the environment.
package main

import (
	"github.com/sentryagent/agentidp/pkg/replica"
	"github.com/sentryagent/agentidp/services/credentials"
)

func main() { replica.Main(program()) }

func program() replica.Program {
	return replica.Program{Service: "credentials", Serve: replica.Serving(credentials.LoadConfig, credentials.New)}
}
