// Command credentials runs the credentials service (serve, the default), brings its
// schema up to date (migrate), or asks the one that runs whether it is alive
// (healthcheck) or can answer (readycheck). Its settings come from the environment.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/sentryagent/agentidp/services/credentials"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, append(os.Args[1:], "serve")[0])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "credentials:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, command string) error {
	switch command {
	case "serve":
		return credentials.Serve(ctx)
	case "migrate":
		return credentials.Migrate(ctx)
	case "healthcheck":
		return credentials.Healthcheck(ctx)
	case "readycheck":
		return credentials.Readycheck(ctx)
	default:
		return fmt.Errorf("unknown command %q: serve, migrate, healthcheck or readycheck", command)
	}
}
