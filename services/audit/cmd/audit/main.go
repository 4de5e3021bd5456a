// Command audit runs the audit service (serve, the default), brings its schema up to
// date (migrate), removes the days before the retention window (retention), makes the
// key of a log (keygen), or asks the one that runs whether it is alive
// (healthcheck) or can answer (readycheck).
// Its settings come from the environment.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/sentryagent/agentidp/pkg/replica"
	"github.com/sentryagent/agentidp/services/audit"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdout, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "audit:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, args []string) error {
	return replica.Program{
		Serve: audit.Serve, Migrate: audit.Migrate, Healthcheck: audit.Healthcheck, Readycheck: audit.Readycheck,
		More: []replica.Command{
			{
				Name: "retention", Usage: "retention                    remove the days before the retention window",
				Run: func(ctx context.Context, _ []string) error { return audit.Retain(ctx) },
			},
			{
				Name: "keygen", Usage: "keygen ORIGIN                make the key of the log of that origin", TakesArguments: true,
				Run: func(_ context.Context, args []string) error { return audit.Keygen(out, os.Stderr, args) },
			},
		},
	}.Run(ctx, out, args)
}
