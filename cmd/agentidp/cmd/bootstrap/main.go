// Command bootstrap creates the first operator of a deployment and keeps its credential in a file or a Kubernetes Secret.
// It is `agentidp bootstrap` without everything else that agentidp has, for an image of its own.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/sentryagent/agentidp/cmd/agentidp/internal/bootstrap"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := bootstrap.Command(os.Stdout, os.LookupEnv).ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bootstrap:", err)
		os.Exit(1)
	}
}
