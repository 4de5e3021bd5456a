// Command token runs the token service: `token serve` (the default), `token migrate`, `token keys`, which lists, rotates
// and retires its signing keys, or `token healthcheck` and `readycheck`. It takes its settings from the environment.
package main

import (
	"context"
	"io"

	"github.com/sentryagent/agentidp/pkg/replica"
	"github.com/sentryagent/agentidp/services/token"
)

func main() { replica.Main(program()) }

func program() replica.Program {
	return replica.Program{
		Service: "token", Serve: replica.Serving(token.LoadConfig, token.New),
		More: []replica.Command{{
			Name: "keys", Usage: token.KeysUsage, TakesArguments: true,
			Run: func(ctx context.Context, out io.Writer, args []string) error { return token.Keys(ctx, args, out) },
		}},
	}
}
