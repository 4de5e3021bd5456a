package command

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/sentryagent/agentidp/cmd/agentidp/internal/dev"
)

const devLong = `Runs all four services in one process behind one port of 127.0.0.1, with the
Postgres, Redis and NATS servers they need, and ends its start with the operator's
credential and commands to try. What is missing is installed first, as root on
Debian or Ubuntu.

The state stays in the data directory: a second start has the same agents, keys
and operator. Every setting of every service can be given by its environment
variable, plain (LOG_LEVEL) or for one service (REGISTRY_LOG_LEVEL). A server
named by DATABASE_URL, REDIS_URL or NATS_URL is used instead of one started here.

For scripts the data directory holds operator.env and services.json; both are
complete once GET /healthz answers 200.`

func devCommand(console Console) *cobra.Command {
	options := dev.Options{Out: console.Out, Errors: console.Err, Environ: console.Environ}
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run the whole system on this machine",
		Long:  devLong,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if options.Port < 0 || options.Port > 65535 {
				return errors.New("--port must be between 0 and 65535")
			}
			options.ExactPort = cmd.Flags().Changed("port")
			if options.Ephemeral && !cmd.Flags().Changed("data-dir") {
				options.DataDir = ""
			} else if options.DataDir == "" {
				return errors.New("--data-dir must not be empty")
			}
			return dev.Run(cmd.Context(), options)
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&options.Port, "port", dev.DefaultPort,
		"port of 127.0.0.1; a free one is picked if the default is taken, or for 0")
	flags.StringVar(&options.DataDir, "data-dir", dev.DefaultDataDir, "directory that keeps the state")
	flags.BoolVar(&options.Ephemeral, "ephemeral", false,
		"keep nothing: use a temporary data directory, or an empty one given by --data-dir, and remove it at the end")
	flags.BoolVar(&options.Verbose, "verbose", false, "show the logs of the services too")
	return cmd
}
