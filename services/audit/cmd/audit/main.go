// Command audit runs the audit service (serve, the default), brings its schema up to
// date (migrate), removes the days before the retention window (retention), makes the
// key of a log (keygen), or asks the one that runs whether it is alive
// (healthcheck) or can answer (readycheck).
// Its settings come from the environment.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/sentryagent/agentidp/services/audit"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, append(os.Args[1:], "serve"))
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "audit:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	switch command := args[0]; command {
	case "serve":
		return audit.Serve(ctx)
	case "migrate":
		return audit.Migrate(ctx)
	case "retention":
		return audit.Retain(ctx)
	case "keygen":
		return audit.Keygen(os.Stdout, os.Stderr, args[1:len(args)-1])
	case "healthcheck":
		return audit.Healthcheck(ctx)
	case "readycheck":
		return audit.Readycheck(ctx)
	default:
		return fmt.Errorf("unknown command %q: serve, migrate, retention, keygen, healthcheck or readycheck", command)
	}
}
