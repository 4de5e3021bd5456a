package command

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/sentryagent/agentidp/cmd/agentidp/internal/bootstrap"
	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/telemetry"
)

const bootstrapLong = `Creates the first operator of a deployment, an agent with every system scope, and
its credential, through the internal APIs of the registry and credentials services.
The secret is printed once. A second run changes nothing and says so.

It reads REGISTRY_INTERNAL_URL, CREDENTIALS_INTERNAL_URL and INTERNAL_API_TOKEN
(or INTERNAL_API_TOKEN_FILE) from the environment.`

// bootstrapFlags are what the command line says.
type bootstrapFlags struct {
	request bootstrap.Request
	json    bool
	timeout time.Duration
}

func bootstrapCommand(console Console) *cobra.Command {
	var given bootstrapFlags
	cmd := &cobra.Command{
		Use:   "bootstrap",
		Short: "Create the first operator of a deployment, once",
		Long:  bootstrapLong,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runBootstrap(cmd.Context(), console, given)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&given.request.Email, "email", bootstrap.DefaultEmail, "email of the operator, if there is none yet")
	flags.StringVar(&given.request.Owner, "owner", bootstrap.DefaultOwner, "owner of the operator, if there is none yet")
	flags.BoolVar(&given.request.NewSecret, "new-secret", false, "issue a further credential, for a secret that was lost")
	flags.BoolVar(&given.json, "json", false, "print one JSON object")
	flags.DurationVar(&given.timeout, "timeout", time.Minute, "how long to wait for services that are not up yet")
	return cmd
}

func runBootstrap(ctx context.Context, console Console, given bootstrapFlags) error {
	settings, err := bootstrap.LoadSettings(config.Environ(console.Environ))
	if err != nil {
		return fmt.Errorf("settings that cannot be used:\n%w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, given.timeout)
	defer cancel()
	result, err := bootstrap.NewClients(settings, telemetry.Discard("bootstrap")).Run(ctx, given.request)
	if err != nil {
		return err
	}
	if given.json {
		return result.WriteJSON(console.Out)
	}
	return result.WriteText(console.Out)
}
