package replica_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"syscall"
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
		Service: "told",
		Serve:   does("serve"),
		Migrate: func(ctx context.Context, _ ...config.Option) error { return does("migrate")(ctx) },
		More: []replica.Command{
			{Name: "retention", Usage: "retention   remove old days", Run: func(ctx context.Context, _ io.Writer, _ []string) error { return does("retention")(ctx) }},
			{Name: "keygen", Usage: "keygen ORIGIN   make a key", TakesArguments: true, Run: func(_ context.Context, out io.Writer, args []string) error {
				did = append(append(did, "keygen"), args...)
				_, err := io.WriteString(out, "a key\n")
				return err
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
	for _, args := range [][]string{{"serve"}, {"migrate"}, {"retention"}, {"keygen"}, {"keygen", "a", "--b"}, {"keygen", "help"}} {
		did, printed, err := told(t, args...)
		require.NoError(t, err)
		require.Equal(t, args, did)
		require.Equal(t, args[0] == "keygen", printed == "a key\n", printed)
	}
}

func TestAProgramUsesTheSettingsOfItsService(t *testing.T) {
	asked := make(chan string, 1)
	beside := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked <- r.URL.Path }))
	defer beside.Close()
	t.Setenv("TOLD_INTERNAL_ADDR", beside.Listener.Addr().String())
	for command, path := range map[string]string{"healthcheck": "/healthz", "readycheck": "/readyz"} {
		_, _, err := told(t, command)
		require.NoError(t, err)
		require.Equal(t, path, <-asked)
	}
	t.Setenv("REGISTRY_MIGRATE_DATABASE_URL", "postgres://nobody@127.0.0.1:1/none")
	err := replica.Program{Service: "registry"}.Run(t.Context(), io.Discard, []string{"migrate"})
	require.ErrorContains(t, err, "migrate schema registry")
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

func TestTheMainFunctionEndsWithTheProgram(t *testing.T) {
	if command := os.Getenv("TOLD_TO"); command != "" { // in a process of its own
		os.Args = []string{"told", command}
		replica.Main(replica.Program{Service: "told", Serve: func(ctx context.Context) error {
			err := syscall.Kill(os.Getpid(), syscall.SIGTERM)
			<-ctx.Done()
			return err
		}})
		return
	}
	t.Parallel()
	run := func(command string) (string, error) {
		program := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
		program.Env = append(os.Environ(), "TOLD_TO="+command)
		out, err := program.CombinedOutput()
		return string(out), err
	}
	out, err := run("serve")
	require.NoError(t, err, "a signal ends it in order: %s", out)
	out, err = run("nosuch")
	require.EqualError(t, err, "exit status 1")
	require.Contains(t, out, `told: unknown command "nosuch"`)
}
