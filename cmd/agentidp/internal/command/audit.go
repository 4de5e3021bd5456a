package command

import (
	"github.com/spf13/cobra"
)

const auditLong = `Checks the audit trail without trusting the service that keeps it, and runs the
parts that others run for that: a witness, the download of an export, keys.`

func auditCommand(console Console) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Check the audit trail, export it, witness it",
		Long:  auditLong,
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(auditVerifyCommand(console), auditExportCommand(console), auditWitnessCommand(console), auditKeygenCommand(console))
	return cmd
}
