package command

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sentryagent/agentidp/pkg/devservers"
)

func setupCommand(console Console) *cobra.Command {
	return &cobra.Command{
		Use:   "setup",
		Short: "Install the programs that `agentidp dev` and the tests need",
		Long: "Installs the Debian packages of Postgres, Redis, HAProxy and a C compiler that are missing, as root on Debian or Ubuntu;\n" +
			"elsewhere it says what to install. Servers that run already are not touched, and none is started.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			missing := devservers.MissingForTests()
			if len(missing) == 0 {
				_, err := fmt.Fprintln(console.Out, "Everything that is needed is installed.")
				return err
			}
			if _, err := fmt.Fprintf(console.Out, "Installing what is missing: %s\n", strings.Join(missing, " ")); err != nil {
				return err
			}
			if err := devservers.Install(cmd.Context(), console.Out, missing); err != nil {
				return err
			}
			_, err := fmt.Fprintln(console.Out, "Everything that is needed is installed now.")
			return err
		},
	}
}
