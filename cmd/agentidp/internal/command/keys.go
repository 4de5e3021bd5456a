package command

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sentryagent/agentidp/cmd/agentidp/internal/dev"
	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/replica"
	"github.com/sentryagent/agentidp/services/token"
)

const keysLong = `Lists, rotates and retires the signing keys of a running ` + "`agentidp dev`" + `.
In a deployment, ` + "`token keys`" + ` does the same with the settings of the token service.

` + token.KeysUsage

func keysCommand(console Console) *cobra.Command {
	var dataDir string
	cmd := &cobra.Command{
		Use:   "keys list|rotate|retire",
		Short: "List, rotate and retire the signing keys of a running dev",
		Long:  keysLong,
		Args: func(_ *cobra.Command, args []string) error {
			if slices.ContainsFunc(args, func(arg string) bool { return strings.HasPrefix(arg, "--data-dir") }) {
				return errors.New("--data-dir: must stand before the command, as in agentidp keys --data-dir DIR list")
			}
			if replica.AsksForHelp(args) {
				return pflag.ErrHelp // which has the help printed, and is no error
			}
			return token.CheckKeys(args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			settings, err := dev.KeySettings(dataDir)
			if err != nil {
				return err
			}
			none := func(string) (string, bool) { return "", false } // the run's settings, not this shell's
			err = token.Keys(cmd.Context(), args, console.Out, config.Values(settings), config.Environ(none))
			if apperr.CodeOf(err) == apperr.ServiceUnavailable {
				return fmt.Errorf("no `agentidp dev` answers for %s: %w", dataDir, err)
			}
			return err
		},
	}
	flags := cmd.Flags()
	flags.SetInterspersed(false) // what follows the command is for it
	flags.StringVar(&dataDir, "data-dir", dev.DefaultDataDir, "data directory of the dev that runs")
	return cmd
}
