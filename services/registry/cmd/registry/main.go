// Command registry runs the registry service: `registry serve` (the default), `registry migrate`, or `registry
// healthcheck` and `readycheck`, which ask the one that runs. It takes its settings from the environment.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/sentryagent/agentidp/pkg/replica"
	"github.com/sentryagent/agentidp/services/registry"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, os.Stdout, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "registry:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, args []string) error {
	return replica.Program{
		Serve: registry.Serve, Migrate: registry.Migrate, Healthcheck: registry.Healthcheck, Readycheck: registry.Readycheck,
	}.Run(ctx, out, args)
}
