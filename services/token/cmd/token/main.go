// Command token runs the token service: `token serve` (the default) or `token migrate`. It takes its settings from
// the environment.
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
	err := run(ctx, append(os.Args[1:], "serve")[0])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "token:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, command string) error {
	switch command {
	case "migrate":
		return token.Migrate(ctx)
	case "serve":
		return token.Serve(ctx)
	default:
		return fmt.Errorf("unknown command %q: serve or migrate", command)
	}
}
