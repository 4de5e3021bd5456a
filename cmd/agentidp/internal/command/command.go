// Package command is the command line of agentidp: it turns flags into calls of the packages that do the
// work, and must do none itself.
package command

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/sentryagent/agentidp/cmd/agentidp/internal/bootstrap"
)

// Console is what a command reads and writes.
type Console struct {
	Out     io.Writer
	Err     io.Writer
	Environ func(string) (string, bool)
}

// New is the whole command line. Errors are returned, not printed.
func New(console Console) *cobra.Command {
	root := &cobra.Command{
		Use:           "agentidp",
		Short:         "Identity provider for AI agents: tools for operators",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetOut(console.Out)
	root.SetErr(console.Err)
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(devCommand(console), bootstrap.Command(console.Out, console.Environ), keysCommand(console), setupCommand(console), auditCommand(console),
		versionCommand(console))
	refuseUnknownTopics(root)
	return root
}

// refuseUnknownTopics lets help of an unknown command fail; cobra's own prints that and succeeds.
func refuseUnknownTopics(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	help, _, _ := root.Find([]string{"help"})
	help.Args = func(_ *cobra.Command, topic []string) error {
		found, rest, err := root.Find(topic)
		if err == nil && found.HasSubCommands() {
			err = found.ValidateArgs(rest)
		}
		return err
	}
}

func versionCommand(console Console) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of this binary",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(console.Out, version(debug.ReadBuildInfo()))
			return err
		},
	}
}

// version says what the Go toolchain wrote into the binary: the module's version and the commit.
func version(info *debug.BuildInfo, known bool) string {
	number, commit := "unknown", ""
	if known {
		number = info.Main.Version
		for _, setting := range info.Settings {
			if setting.Key == "vcs.revision" {
				commit = " " + setting.Value
			}
		}
	}
	return fmt.Sprintf("agentidp %s%s %s %s/%s", number, commit, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
