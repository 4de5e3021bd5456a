package replica_test

import (
	"bytes"
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/replica"
)

// told runs a program with args and gives what it did and what it printed.
func told(t *testing.T, args ...string) (did []string, printed string, err error) {
	t.Helper()
	does := func(name string) func(context.Context) error {
		return func(context.Context) error {
			did = append(did, name)
			return nil
		}
	}
	var out bytes.Buffer
	err = replica.Program{
		Serve:       does("serve"),
		Migrate:     func(ctx context.Context, _ ...config.Option) error { return does("migrate")(ctx) },
		Healthcheck: does("healthcheck"),
		Readycheck:  does("readycheck"),
		More: []replica.Command{
			{Name: "retention", Usage: "retention   remove old days", Run: func(ctx context.Context, _ []string) error { return does("retention")(ctx) }},
			{Name: "keygen", Usage: "keygen ORIGIN   make a key", TakesArguments: true, Run: func(_ context.Context, args []string) error {
				did = append(append(did, "keygen"), args...)
				return nil
			}},
		},
	}.Run(t.Context(), &out, args)
	return did, out.String(), err
}

func TestAProgramDoesWhatItIsTold(t *testing.T) {
	t.Parallel()
	did, _, err := told(t)
	require.NoError(t, err)
	require.Equal(t, []string{"serve"}, did)
	for _, args := range [][]string{{"serve"}, {"migrate"}, {"healthcheck"}, {"readycheck"}, {"retention"}, {"keygen"}, {"keygen", "a", "--b"}, {"keygen", "help"}} {
		did, printed, err := told(t, args...)
		require.NoError(t, err)
		require.Equal(t, args, did)
		require.Empty(t, printed)
	}
}

func TestAProgramRefusesWhatItDoesNotKnowAndDoesNothing(t *testing.T) {
	t.Parallel()
	for _, command := range []string{"serve", "migrate", "healthcheck", "readycheck", "retention"} {
		did, _, err := told(t, command, "--dry-run")
		require.EqualError(t, err, command+`: does not take "--dry-run"`)
		require.Empty(t, did)
	}
	for _, args := range [][]string{{"destroy"}, {"destroy", "--help"}} {
		did, _, err := told(t, args...)
		require.EqualError(t, err, `unknown command "destroy": serve, migrate, retention, keygen, healthcheck or readycheck`)
		require.Empty(t, did)
	}
}

func TestAProgramThatIsAskedForHelpPrintsItsCommandsAndDoesNothing(t *testing.T) {
	t.Parallel()
	asked := [][]string{{"help"}}
	for _, word := range []string{"--help", "-h"} {
		asked = append(asked, [][]string{{word}, {"serve", word}, {"migrate", word}, {"retention", word}, {"keygen", word}, {"keygen", "a", word}}...)
	}
	for _, args := range asked {
		did, printed, err := told(t, args...)
		require.NoError(t, err, args)
		require.Empty(t, did, args)
		for _, line := range []string{"serve ", "migrate ", "retention   remove old days\n", "keygen ORIGIN   make a key\n", "healthcheck ", "readycheck "} {
			require.Contains(t, printed, line, args)
		}
	}
}
