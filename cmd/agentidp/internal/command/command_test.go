package command

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/devservers"
)

// run executes a command line with an environment and gives what it printed.
func run(t *testing.T, env map[string]string, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	root := New(Console{Out: &out, Err: &out, Environ: func(key string) (string, bool) {
		value, set := env[key]
		return value, set
	}})
	root.SetArgs(args)
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

func TestTheVersionNamesTheToolchain(t *testing.T) {
	t.Parallel()
	out, err := run(t, nil, "version")
	require.NoError(t, err)
	require.Regexp(t, `^agentidp \S+.* go1\.\d+`, out)
	require.Contains(t, version(nil, false), "agentidp unknown go")
	info := &debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}, Settings: []debug.BuildSetting{{Key: "vcs.revision", Value: "abc"}}}
	require.Contains(t, version(info, true), "agentidp v1.2.3 abc go")
}

func TestHelpNamesEveryCommandAndFlag(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{}, {"--help"}} {
		out, err := run(t, nil, args...)
		require.NoError(t, err)
		for _, name := range []string{"dev", "bootstrap", "keys", "setup", "audit", "version"} {
			require.Contains(t, out, name)
		}
	}
	out, err := run(t, nil, "dev", "--help")
	require.NoError(t, err)
	for _, flag := range []string{"--port", "--data-dir", "--ephemeral", "--verbose"} {
		require.Contains(t, out, flag)
	}
}

func TestKeysNeedARunningDev(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, err := run(t, nil, "keys", "--data-dir", dir, "list")
	require.ErrorContains(t, err, "no `agentidp dev` runs on "+dir)

	settings := `{"DATABASE_URL":"postgres://x@127.0.0.1:1/y","KEY_ENCRYPTION_KEY":"` + strings.Repeat("A", 43) + `="}`
	require.NoError(t, os.Mkdir(filepath.Join(dir, "secrets"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "secrets", "key-settings.json"), []byte(settings), 0o600))
	_, err = run(t, nil, "keys", "--data-dir", dir, "list")
	require.ErrorContains(t, err, "no `agentidp dev` answers for "+dir)
	_, err = run(t, nil, "keys", "--data-dir", dir, "rotate", "--now")
	require.ErrorContains(t, err, "keys retire", "what it can be told")
	for _, late := range [][]string{{"--data-dir", dir}, {"--data-dir=" + dir}} {
		_, err = run(t, nil, append([]string{"keys", "list"}, late...)...)
		require.ErrorContains(t, err, "--data-dir: must stand before the command")
	}
}

func TestKeysSayWhatIsWrongWithTheCommandBeforeTheyLookForADev(t *testing.T) {
	t.Parallel()
	for want, args := range map[string][]string{
		"keys: say what to do":             nil,
		`keys: unknown command "nosuch"`:   {"nosuch"},
		`keys list: does not take "--now"`: {"list", "--now"},
		"keys retire: name one key":        {"retire"},
	} {
		_, err := run(t, nil, append([]string{"keys", "--data-dir", t.TempDir()}, args...)...)
		require.ErrorContains(t, err, want)
	}
}

func TestKeysTellTheirUsageWithoutADev(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"--help"}, {"list", "--help"}, {"rotate", "-h"}, {"retire", "--help"}} {
		out, err := run(t, nil, append([]string{"keys", "--data-dir", t.TempDir()}, args...)...)
		require.NoError(t, err, args)
		require.Contains(t, out, "keys retire [--json] KID", args)
	}
}

func TestHelpRefusesWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	_, err := run(t, nil, "help", "nosuch")
	require.ErrorContains(t, err, `unknown command "nosuch" for "agentidp"`)
	_, err = run(t, nil, "help", "audit", "nosuch")
	require.ErrorContains(t, err, `unknown command "nosuch" for "agentidp audit"`)
	for _, topic := range [][]string{nil, {"keys"}, {"keys", "list"}, {"audit"}, {"audit", "verify"}, {"help"}} {
		out, err := run(t, nil, append([]string{"help"}, topic...)...)
		require.NoError(t, err, topic)
		require.Contains(t, out, "Usage:")
	}
}

func TestBadCommandLinesAreRefused(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"an unknown command":         {[]string{"serve"}, "unknown command"},
		"an argument too many":       {[]string{"dev", "x"}, "unknown command"},
		"a port that is none":        {[]string{"dev", "--port", "70000"}, "--port"},
		"a port that is no number":   {[]string{"dev", "--port", "x"}, "--port"},
		"an empty data directory":    {[]string{"dev", "--data-dir", ""}, "--data-dir"},
		"empty, though it goes away": {[]string{"dev", "--ephemeral", "--data-dir", ""}, "--data-dir"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := run(t, nil, test.args...)
			require.ErrorContains(t, err, test.want)
		})
	}
}

func TestBootstrapNamesTheSettingsThatItLacks(t *testing.T) {
	t.Parallel()
	_, err := run(t, nil, "bootstrap")
	require.ErrorContains(t, err, "REGISTRY_INTERNAL_URL")
	require.ErrorContains(t, err, "CREDENTIALS_INTERNAL_URL")
	require.ErrorContains(t, err, "INTERNAL_API_TOKEN")
}

func TestBootstrapGivesUpAfterItsDeadline(t *testing.T) {
	t.Parallel()
	_, err := run(t, map[string]string{
		"REGISTRY_INTERNAL_URL": "http://127.0.0.1:1", "CREDENTIALS_INTERNAL_URL": "http://127.0.0.1:1", "INTERNAL_API_TOKEN": "x",
	}, "bootstrap", "--timeout", "300ms")
	require.ErrorContains(t, err, "create the operator at the registry")
}

// internalAPIs stands for registry and credentials: one operator, who gets one credential.
func internalAPIs(t *testing.T) string {
	t.Helper()
	const id = "0191f3c2-7b1a-7c3e-9a51-0123456789ab"
	var registered, issued atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch {
		case r.URL.Path == "/internal/v1/bootstrap":
			_, _ = fmt.Fprintf(w, `{"agentId":%q,"email":"ops@example.com","status":"active","created":%t}`, id, !registered.Swap(true))
		case issued.Swap(true):
			_, _ = fmt.Fprint(w, `{"exists":true}`)
		default:
			var asked struct {
				CredentialID string `json:"credentialId"`
			}
			if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			_, _ = fmt.Fprintf(w, `{"credentialId":%q,"clientId":%q,"clientSecret":"sk_live_x"}`, asked.CredentialID, id)
		}
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func TestBootstrapPrintsTheSecretOnceForPeopleAndForPrograms(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{"text": nil, "json": {"--json"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := internalAPIs(t)
			env := map[string]string{"REGISTRY_INTERNAL_URL": url, "CREDENTIALS_INTERNAL_URL": url, "INTERNAL_API_TOKEN": "0123456789abcdef"}
			out, err := run(t, env, append([]string{"bootstrap"}, args...)...)
			require.NoError(t, err)
			require.Equal(t, 1, strings.Count(out, "sk_live_x"))
			require.Equal(t, name == "json", json.Valid([]byte(out)))

			out, err = run(t, env, append([]string{"bootstrap"}, args...)...)
			require.NoError(t, err, "a second run is no failure")
			require.NotContains(t, out, "sk_live_x")
		})
	}
}

func TestDevPassesOnWhyItDoesNotStart(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	out, err := run(t, map[string]string{"LOG_LEVEL": "loud"}, "dev", "--port", "0", "--ephemeral", "--data-dir", dir)
	require.ErrorContains(t, err, "LOG_LEVEL")
	require.Contains(t, out, dir)
	require.NoDirExists(t, dir)
}

func TestSetupSaysWhenNothingIsMissing(t *testing.T) {
	t.Parallel()
	if missing := devservers.MissingForTests(); len(missing) > 0 {
		t.Skipf("it would install %v", missing)
	}
	out, err := run(t, nil, "setup")
	require.NoError(t, err)
	require.Equal(t, "Everything that is needed is installed.\n", out)
}
