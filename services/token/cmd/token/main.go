// Command token runs the token service: `token serve` (the default), `token migrate`, `token keys`, which lists, rotates
// and retires its signing keys, or `token healthcheck` and `readycheck`. It takes its settings from the environment.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/sentryagent/agentidp/services/token"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, append(os.Args[1:], "serve"))
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "token:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	switch command := args[0]; command {
	case "migrate":
		return token.Migrate(ctx)
	case "serve":
		return token.Serve(ctx)
	case "keys":
		return token.Keys(ctx, args[1:len(args)-1], os.Stdout)
	case "healthcheck":
		return token.Healthcheck(ctx)
	case "readycheck":
		return token.Readycheck(ctx)
	default:
		return fmt.Errorf("unknown command %q: serve, migrate, keys, healthcheck or readycheck", command)
	}
}
