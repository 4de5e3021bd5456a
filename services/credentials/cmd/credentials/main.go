// Command credentials runs the credentials service (serve, the default) or brings
// its schema up to date (migrate). Its settings come from the environment.
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
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "credentials:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	cfg, err := credentials.LoadConfig()
	switch {
	case err != nil:
		return err
	case len(args) == 1 && args[0] == "migrate":
		return credentials.Migrate(ctx, cfg)
	case len(args) == 0, len(args) == 1 && args[0] == "serve":
		service, err := credentials.New(ctx, cfg)
		if err != nil {
			return err
		}
		return service.Run(ctx)
	}
	return fmt.Errorf("unknown arguments %q: want serve or migrate", args)
}
