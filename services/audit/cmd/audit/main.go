// Command audit runs the audit service (serve, the default), brings its schema up to
// date (migrate), or removes the days before the retention window (retention). Its
// settings come from the environment.
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
	err := run(ctx, append(os.Args[1:], "serve")[0])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "audit:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, command string) error {
	switch command {
	case "serve":
		return audit.Serve(ctx)
	case "migrate":
		return audit.Migrate(ctx)
	case "retention":
		return audit.Retain(ctx)
	default:
		return fmt.Errorf("unknown command %q: serve, migrate or retention", command)
	}
}
