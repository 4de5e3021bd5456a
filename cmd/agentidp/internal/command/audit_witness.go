package command

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"

	"github.com/sentryagent/agentidp/cmd/agentidp/internal/auditor"
	"github.com/sentryagent/agentidp/cmd/agentidp/internal/witness"
	"github.com/sentryagent/agentidp/pkg/auditlog"
)

const witnessLong = `Runs a small witness (C2SP tlog-witness): it signs a checkpoint of a log if that
goes on from the one it signed last, and never forgets that one. Run it where those
who run the log have no say, and give them its public key and URL for
AUDIT_WITNESSES.

What it signed is kept in --state, which --init begins for a log before the witness
runs for it the first time. A witness without it does not start: one that lost it
could sign for a second past, and must get a new key.

It speaks plain HTTP: put it behind something that speaks TLS.`

const (
	witnessTimeout = 10 * time.Second
	witnessDrain   = 5 * time.Second
)

type witnessFlags struct {
	listen string
	logs   []string
	key    string
	state  string
	begin  bool
}

func auditWitnessCommand(console Console) *cobra.Command {
	var given witnessFlags
	cmd := &cobra.Command{
		Use:   "witness --log PUBLIC --key-file FILE --state DIR",
		Short: "Run a witness of audit logs",
		Long:  witnessLong,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runWitness(cmd.Context(), console, given)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&given.listen, "listen", "127.0.0.1:8090", "address to listen on")
	flags.StringArrayVar(&given.logs, "log", nil, "public key of a log, or a file that holds it; may be repeated")
	flags.StringVar(&given.key, "key-file", "", "file with the witness's secret key")
	flags.StringVar(&given.state, "state", "", "directory that keeps what was signed")
	flags.BoolVar(&given.begin, "init", false, "begin --state for the logs that it holds nothing of, and end")
	for _, required := range []string{"log", "key-file", "state"} {
		_ = cmd.MarkFlagRequired(required)
	}
	return cmd
}

func runWitness(ctx context.Context, console Console, given witnessFlags) error {
	secret, err := keyFile(given.key)
	if err != nil {
		return fmt.Errorf("--key-file: %w", err)
	}
	cosigner, err := auditlog.NewCosigner(secret, time.Now)
	if err != nil {
		return errors.New("--key-file: not the secret key of a witness, as `agentidp audit keygen --witness` makes it")
	}
	logs := make([]note.Verifier, 0, len(given.logs))
	for _, log := range given.logs {
		text, err := keyText(log)
		if err != nil {
			return fmt.Errorf("--log: %w", err)
		}
		verifier, err := auditor.LoadKey(text)
		if err != nil {
			return fmt.Errorf("--log: %w", err)
		}
		logs = append(logs, verifier)
	}
	if given.begin {
		return witness.Init(given.state, logs)
	}
	w, err := witness.New(given.state, cosigner, logs, slog.New(slog.NewJSONHandler(console.Err, nil)))
	if errors.Is(err, witness.ErrNoState) {
		return fmt.Errorf("--state: %w; if the witness never signed for that log, begin it by --init, and else give it a new key", err)
	}
	if err != nil {
		return err
	}
	defer func() { _ = w.Close() }()
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", given.listen)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(console.Out, "witness %s\nlistens on http://%s\n", cosigner.PublicKey(), listener.Addr()); err != nil {
		return err
	}
	return serve(ctx, listener, w)
}

// serve answers until ctx ends, and then what was asked before.
func serve(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{
		Handler: handler, ReadTimeout: witnessTimeout, WriteTimeout: witnessTimeout, IdleTimeout: time.Minute,
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), witnessDrain)
	defer cancel()
	return server.Shutdown(drain)
}
