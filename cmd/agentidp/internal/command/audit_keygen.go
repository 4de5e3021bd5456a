package command

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/sentryagent/agentidp/pkg/auditlog"
)

const keygenLong = `Makes an Ed25519 key pair in the text form of signed notes, for the audit log or,
with --witness, for a witness of it. The name is part of the key: for a log it is
the first line of every checkpoint, its origin, for which the host and path that
the log is found at are customary.

The secret key goes to --out, which must not exist, or is printed. The audit
service reads it from AUDIT_LOG_KEY or AUDIT_LOG_KEY_FILE, the same at every
replica. The public key is for everyone who checks the log.`

type keygenFlags struct {
	origin  string
	witness bool
	out     string
}

func auditKeygenCommand(console Console) *cobra.Command {
	var given keygenFlags
	cmd := &cobra.Command{
		Use:   "keygen --origin NAME",
		Short: "Make the key of a log or of a witness",
		Long:  keygenLong,
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return runKeygen(console, given) },
	}
	flags := cmd.Flags()
	flags.StringVar(&given.origin, "origin", "", "name of the key, as in idp.example.com/audit")
	flags.BoolVar(&given.witness, "witness", false, "for a witness")
	flags.StringVar(&given.out, "out", "", "file for the secret key, readable by its owner alone")
	_ = cmd.MarkFlagRequired("origin")
	return cmd
}

func runKeygen(console Console, given keygenFlags) error {
	generate := auditlog.GenerateKey
	if given.witness {
		generate = auditlog.GenerateWitnessKey
	}
	secret, public, err := generate(rand.Reader, given.origin)
	if err != nil {
		return fmt.Errorf("--origin: %w", err)
	}
	if given.out == "" {
		_, err = fmt.Fprintf(console.Out, "secret %s\npublic %s\n", secret, public)
		return err
	}
	file, err := os.OpenFile(given.out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(file, secret)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	_, err = fmt.Fprintln(console.Out, public)
	return err
}
