// Command audit runs the audit service (serve, the default), brings its schema up to
// date (migrate), removes the days before the retention window (retention), makes the
// key of a log (keygen), or asks the one that runs whether it is alive
// (healthcheck) or can answer (readycheck).
// Its settings come from the environment.
package main

import (
	"context"
	"io"
	"os"

	"github.com/sentryagent/agentidp/pkg/replica"
	"github.com/sentryagent/agentidp/services/audit"
)

func main() { replica.Main(program()) }

func program() replica.Program {
	return replica.Program{
		Service: "audit", Serve: replica.Serving(audit.LoadConfig, audit.New), Migrate: audit.Migrate,
		More: []replica.Command{
			{
				Name: "retention", Usage: "retention                    remove the days before the retention window",
				Run: func(ctx context.Context, _ io.Writer, _ []string) error { return audit.Retain(ctx) },
			},
			{
				Name: "keygen", Usage: "keygen ORIGIN                make the key of the log of that origin", TakesArguments: true,
				Run: func(_ context.Context, out io.Writer, args []string) error { return audit.Keygen(out, os.Stderr, args) },
			},
		},
	}
}
