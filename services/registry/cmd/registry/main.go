// Command registry runs the registry service: `registry serve` (the default), `registry migrate`, or `registry
// healthcheck` and `readycheck`, which ask the one that runs. It takes its settings from the environment.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/sentryagent/agentidp/services/registry"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, append(os.Args[1:], "serve")[0])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "registry:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, command string) error {
	switch command {
	case "migrate":
		return registry.Migrate(ctx)
	case "serve":
		return registry.Serve(ctx)
	case "healthcheck":
		return registry.Healthcheck(ctx)
	case "readycheck":
		return registry.Readycheck(ctx)
	default:
		return fmt.Errorf("unknown command %q: serve, migrate, healthcheck or readycheck", command)
	}
}
