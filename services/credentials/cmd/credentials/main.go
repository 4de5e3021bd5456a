// Command credentials runs the credentials service (serve, the default), brings its
// schema up to date (migrate), or asks the one that runs whether it is alive
// (healthcheck) or can answer (readycheck). Its settings come from the environment.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/sentryagent/agentidp/pkg/replica"
	"github.com/sentryagent/agentidp/services/credentials"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdout, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "credentials:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, args []string) error {
	return replica.Program{
		Serve: credentials.Serve, Migrate: credentials.Migrate, Healthcheck: credentials.Healthcheck, Readycheck: credentials.Readycheck,
	}.Run(ctx, out, args)
}
