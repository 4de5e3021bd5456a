package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/telemetry"
)

const long = `Creates the first operator of a deployment, an agent with every system scope, and
its credential, through the internal APIs of the registry and credentials services.
The secret is printed once. A second run changes nothing and says so.

An operator that was suspended or decommissioned stays what it is: who did that may
have meant it. With --new-operator another one takes its place, and one that is only
suspended is decommissioned first. It needs an address of its own (--email).

With --env-file or --kubernetes-secret the credential is kept there instead, and not
printed. A run that finds one there does nothing at all; one that finds none issues a
new credential, also to an operator that has others. AGENTIDP_URL, the address that
agents know, is kept beside it.

It reads REGISTRY_INTERNAL_URL, CREDENTIALS_INTERNAL_URL and INTERNAL_API_TOKEN
(or INTERNAL_API_TOKEN_FILE) from the environment, and TLS_CERT_FILE, TLS_KEY_FILE and
TLS_CA_FILE where the services speak TLS with each other.`

// flags are what the command line says.
type flags struct {
	request Request
	envFile string
	secret  string
	json    bool
	timeout time.Duration
}

// Command is `bootstrap`, by itself and as a part of `agentidp`. It writes to out what happened.
func Command(out io.Writer, environ func(string) (string, bool)) *cobra.Command {
	var given flags
	cmd := &cobra.Command{
		Use:           "bootstrap",
		Short:         "Create the first operator of a deployment, once",
		Long:          long,
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return given.run(cmd.Context(), out, environ)
		},
	}
	set := cmd.Flags()
	set.StringVar(&given.request.Email, "email", DefaultEmail, "email of the operator, if one is made")
	set.StringVar(&given.request.Owner, "owner", DefaultOwner, "owner of the operator, if one is made")
	set.BoolVar(&given.request.NewSecret, "new-secret", false, "issue a further credential, for a secret that was lost")
	set.BoolVar(&given.request.NewOperator, "new-operator", false, "make another operator, if the one there is was suspended or decommissioned")
	set.BoolVar(&given.json, "json", false, "print one JSON object")
	set.StringVar(&given.envFile, "env-file", "", "keep the credential in this file, unless it exists")
	set.StringVar(&given.secret, "kubernetes-secret", "", "keep the credential in the Secret of this name in the pod's namespace, unless it exists")
	set.DurationVar(&given.timeout, "timeout", time.Minute, "how long to wait for services that are not up yet")
	cmd.MarkFlagsMutuallyExclusive("env-file", "kubernetes-secret", "json")
	cmd.MarkFlagsMutuallyExclusive("env-file", "kubernetes-secret", "new-secret")
	return cmd
}

func (f flags) run(ctx context.Context, out io.Writer, environ func(string) (string, bool)) error {
	settings, err := LoadSettings(config.Environ(environ))
	if err != nil {
		return fmt.Errorf("settings that cannot be used:\n%w", err)
	}
	store, err := f.store(environ)
	if err != nil {
		return err
	}
	if store != nil && settings.PublicURL == "" {
		return errors.New("settings that cannot be used:\nAGENTIDP_URL is required, to be kept beside the credential")
	}
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	clients, err := NewClients(settings, telemetry.Discard("bootstrap"))
	if err != nil {
		return err
	}
	if store == nil {
		return f.show(ctx, out, clients)
	}
	result, kept, err := clients.Keep(ctx, f.request, store, string(settings.PublicURL))
	if err != nil {
		return err
	}
	if !kept {
		_, err = fmt.Fprintf(out, "%s holds a credential already. Nothing was changed.\n", store)
		return err
	}
	return result.WriteKept(out, store)
}

func (f flags) show(ctx context.Context, out io.Writer, clients Clients) error {
	result, err := clients.Run(ctx, f.request)
	if err != nil {
		return err
	}
	if f.json {
		return result.WriteJSON(out)
	}
	return result.WriteText(out)
}

// store is where the credential is to be kept, nil for nowhere.
func (f flags) store(environ func(string) (string, bool)) (Store, error) {
	switch {
	case f.envFile != "":
		return EnvFile(f.envFile), nil
	case f.secret != "":
		return NewKubernetesSecret(f.secret, serviceAccountDir, environ)
	default:
		return nil, nil
	}
}
