// Command token runs the token service: `token serve` (the default), `token migrate`, `token keys`, which lists, rotates
// and retires its signing keys, or `token healthcheck` and `readycheck`. It takes its settings from the environment.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/sentryagent/agentidp/pkg/replica"
	"github.com/sentryagent/agentidp/services/token"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, os.Stdout, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "token:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, args []string) error {
	return replica.Program{
		Serve: token.Serve, Migrate: token.Migrate, Healthcheck: token.Healthcheck, Readycheck: token.Readycheck,
		More: []replica.Command{{
			Name: "keys", Usage: token.KeysUsage, TakesArguments: true,
			Run: func(ctx context.Context, args []string) error { return token.Keys(ctx, args, out) },
		}},
	}.Run(ctx, out, args)
}
