package dev

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/testkit"
)

// childDir tells the test binary to be `agentidp dev` on that directory, so that a test can kill it.
const childDir = "AGENTIDP_TEST_DEV_DIR"

func TestMain(m *testing.M) {
	dir := os.Getenv(childDir)
	if dir == "" {
		os.Exit(m.Run())
	}
	if err := Run(context.Background(), Options{DataDir: dir, Out: os.Stdout, Environ: os.LookupEnv}); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// instance is one running `agentidp dev` with what its data directory tells a script.
type instance struct {
	t        *testing.T
	dir      string
	out      *testkit.Log
	operator map[string]string
	token    string
}

// startDev runs dev in this process; stop ends it as Ctrl-C does.
func startDev(t *testing.T, options Options) (in *instance, stop func() error) {
	t.Helper()
	out := &testkit.Log{}
	options.Out, options.Errors = out, io.Discard
	if options.Environ == nil {
		options.Environ = lookup(nil)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, options) }()
	stop = func() error {
		cancel()
		err := <-ended
		ended <- err
		return err
	}
	t.Cleanup(func() { _ = stop() })
	in = &instance{t: t, dir: options.DataDir, out: out}
	require.Eventually(t, func() bool {
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("it did not start: %v\n%s", err, out)
		default:
		}
		return in.healthy()
	}, 90*time.Second, 20*time.Millisecond)
	return in, stop
}

// healthy reads the data directory and asks /healthz.
func (in *instance) healthy() bool {
	content, err := os.ReadFile(filepath.Join(in.dir, operatorFileName))
	if err != nil {
		return false
	}
	in.operator = make(map[string]string)
	for line := range strings.Lines(string(content)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		in.operator[name] = value
	}
	res, err := http.Get(in.operator["AGENTIDP_URL"] + "/healthz")
	if err != nil {
		return false
	}
	_ = res.Body.Close()
	return res.StatusCode == http.StatusOK
}

// call sends a request as the operator and gives the status and the body.
func (in *instance) call(method, path, contentType, body string) (int, map[string]any, error) {
	req, err := http.NewRequestWithContext(in.t.Context(), method, in.operator["AGENTIDP_URL"]+path, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if in.token != "" {
		req.Header.Set("Authorization", "Bearer "+in.token)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = res.Body.Close() }()
	var answer map[string]any
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
		return res.StatusCode, nil, err
	}
	return res.StatusCode, answer, nil
}

// signIn gets a token with what operator.env holds.
func (in *instance) signIn() {
	in.t.Helper()
	form := url.Values{
		"grant_type": {"client_credentials"}, "scope": {"agents:read agents:write audit:read"},
		"client_id": {in.operator["AGENTIDP_CLIENT_ID"]}, "client_secret": {in.operator["AGENTIDP_CLIENT_SECRET"]},
	}
	in.token = ""
	var status int
	var answer map[string]any
	require.Eventually(in.t, func() bool {
		var err error
		status, answer, err = in.call(http.MethodPost, "/api/v1/token", "application/x-www-form-urlencoded", form.Encode())
		require.NoError(in.t, err)
		// The first check of a secret computes bcrypt, for which a busy machine under the race detector
		// may take longer than the services wait; a client is told to come again then.
		return status != http.StatusServiceUnavailable
	}, 30*time.Second, 100*time.Millisecond)
	require.Equal(in.t, http.StatusOK, status, answer)
	in.token = answer["access_token"].(string)
}

// register gives the id of a new agent, or an error when it was not acknowledged.
func (in *instance) register(email string) (string, error) {
	status, answer, err := in.call(http.MethodPost, "/api/v1/agents", "application/json", `{"email":"`+email+`","agentType":"screener",`+
		`"version":"1.0.0","capabilities":["resume:read"],"owner":"tests","deploymentEnv":"development"}`)
	if err != nil {
		return "", err
	}
	if status != http.StatusCreated {
		return "", fmt.Errorf("status %d: %v", status, answer)
	}
	return answer["agentId"].(string), nil
}

// creations counts the agent.created events of an agent.
func (in *instance) creations(agentID string) int {
	in.t.Helper()
	status, answer, err := in.call(http.MethodGet, "/api/v1/audit?action=agent.created&agentId="+agentID, "", "")
	require.NoError(in.t, err)
	require.Equal(in.t, http.StatusOK, status, answer)
	return int(answer["total"].(float64))
}

func TestDevComesUpServesAndKeepsItsState(t *testing.T) {
	t.Parallel()
	requireServers(t)
	dir := filepath.Join(t.TempDir(), "data")
	first, stop := startDev(t, Options{DataDir: dir})
	first.signIn()
	agent, err := first.register("first@example.com")
	require.NoError(t, err)
	requireFilesForScripts(t, dir)
	requirePastedCommandsWork(t, first.out.String())

	_, err = openDataDir(dir, false)
	require.ErrorIs(t, err, errInUse)

	require.NoError(t, stop())
	require.Contains(t, first.out.String(), "Stopped.")
	_, _, err = first.call(http.MethodGet, "/healthz", "", "")
	require.Error(t, err, "nothing listens any more")

	second, stop := startDev(t, Options{DataDir: dir})
	require.Equal(t, first.operator["AGENTIDP_CLIENT_ID"], second.operator["AGENTIDP_CLIENT_ID"])
	require.Equal(t, first.operator["AGENTIDP_CLIENT_SECRET"], second.operator["AGENTIDP_CLIENT_SECRET"])
	second.signIn()
	status, answer, err := second.call(http.MethodGet, "/api/v1/agents/"+agent, "", "")
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status, answer)
	require.Equal(t, 1, second.creations(agent))
	require.NoError(t, stop())

	require.NoError(t, os.Remove(filepath.Join(dir, "secrets", "operator.json")))
	third, stop := startDev(t, Options{DataDir: dir, Verbose: true})
	require.Contains(t, third.out.String(), "a new credential was issued")
	require.Equal(t, first.operator["AGENTIDP_CLIENT_ID"], third.operator["AGENTIDP_CLIENT_ID"])
	third.signIn()
	require.NoError(t, stop())
}

// requireFilesForScripts checks what the data directory shows, and to whom.
func requireFilesForScripts(t *testing.T, dir string) {
	t.Helper()
	requirePrivate(t, filepath.Join(dir, operatorFileName))
	requirePrivate(t, filepath.Join(dir, servicesFileName))
	content, err := os.ReadFile(filepath.Join(dir, servicesFileName))
	require.NoError(t, err)
	var services handoff
	require.NoError(t, json.Unmarshal(content, &services))
	require.Len(t, services.Services, 4)
	requirePrivate(t, services.InternalTokenFile)
	for name, service := range services.Services {
		require.NoError(t, askOK(t.Context(), service.PublicURL+"/healthz"), name)
		require.NoError(t, askOK(t.Context(), service.InternalURL+"/readyz"), name)
		require.FileExists(t, filepath.Join(dir, "logs", name+".log"))
	}
}

// requirePastedCommandsWork runs the printed commands in a shell that knows nothing else.
func requirePastedCommandsWork(t *testing.T, console string) {
	t.Helper()
	for _, program := range []string{"curl", "sed"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Logf("%s is not installed: the printed commands were not tried", program)
			return
		}
	}
	var script strings.Builder
	for line := range strings.Lines(console) {
		if strings.Contains(line, "curl") {
			script.WriteString(line)
		}
	}
	shell := exec.CommandContext(t.Context(), "sh")
	shell.Stdin = strings.NewReader(script.String() + script.String()) // pasting them again works too
	shell.Env = []string{"PATH=" + os.Getenv("PATH")}
	out, err := shell.CombinedOutput()
	require.NoError(t, err, string(out))
	require.Equal(t, 2, strings.Count(string(out), `"registeredBy":"`), string(out))
	require.Equal(t, 2, strings.Count(string(out), `"total":`), string(out))
	require.NotContains(t, string(out), `"code":`)
}

func TestKillingDevLosesNothingThatWasAcknowledged(t *testing.T) {
	t.Parallel()
	requireServers(t)
	dir := filepath.Join(t.TempDir(), "data")
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childDir+"="+dir, "RATE_LIMIT_PER_MINUTE=0", "FREE_TIER_MAX_AGENTS=0")
	var out testkit.Log
	child.Stdout, child.Stderr = &out, &out
	require.NoError(t, child.Start())
	t.Cleanup(func() { _ = child.Process.Kill() })
	in := &instance{t: t, dir: dir}
	require.Eventually(t, in.healthy, 90*time.Second, 20*time.Millisecond, &out)
	in.signIn()

	var acknowledged []string
	killed := make(chan struct{})
	time.AfterFunc(500*time.Millisecond, func() {
		_ = child.Process.Signal(syscall.SIGKILL)
		close(killed)
	})
	for i := 0; ; i++ {
		id, err := in.register(fmt.Sprintf("agent-%d@example.com", i))
		if err != nil {
			break
		}
		acknowledged = append(acknowledged, id)
	}
	<-killed
	_ = child.Wait()
	require.NotEmpty(t, acknowledged)

	again, stop := startDev(t, Options{DataDir: dir, Environ: lookup(map[string]string{"RATE_LIMIT_PER_MINUTE": "0"})})
	require.Equal(t, in.operator["AGENTIDP_CLIENT_SECRET"], again.operator["AGENTIDP_CLIENT_SECRET"])
	again.signIn()
	for _, id := range acknowledged {
		require.Eventually(t, func() bool { return again.creations(id) == 1 }, 20*time.Second, 20*time.Millisecond, id)
	}
	require.NoError(t, stop())
}

func TestAnEphemeralRunLeavesNothing(t *testing.T) {
	t.Parallel()
	requireServers(t)
	dir := filepath.Join(t.TempDir(), "data")
	in, stop := startDev(t, Options{DataDir: dir, Ephemeral: true})
	in.signIn()
	require.NoError(t, stop())
	require.NoDirExists(t, dir)
}

func TestSettingsAreRefusedBeforeAnythingStarts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var out bytes.Buffer
	err := Run(t.Context(), Options{DataDir: dir, Out: &out, Environ: lookup(map[string]string{
		"LOG_LEVEL": "loud", "REGISTRY_FREE_TIER_MAX_AGENTS": "many", "RATE_LIMIT_PER_MINUTE": "-1",
	})})
	require.ErrorContains(t, err, "LOG_LEVEL")
	require.ErrorContains(t, err, "FREE_TIER_MAX_AGENTS")
	require.ErrorContains(t, err, "RATE_LIMIT_PER_MINUTE")
	require.NoDirExists(t, filepath.Join(dir, "postgres"))
	again, err := openDataDir(dir, false)
	require.NoError(t, err, "the directory is free again")
	require.NoError(t, again.close())
}

func TestATakenPortEndsTheStartIfItWasAskedFor(t *testing.T) {
	t.Parallel()
	taken, err := listenIngress(t.Context(), 0, true)
	require.NoError(t, err)
	t.Cleanup(func() { _ = taken.Close() })
	err = Run(t.Context(), Options{DataDir: t.TempDir(), Port: portOf(taken), ExactPort: true, Out: io.Discard, Environ: lookup(nil)})
	require.ErrorContains(t, err, "is taken")
}

func TestAStartThatIsInterruptedIsNoFailure(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := filepath.Join(t.TempDir(), "data")
	require.NoError(t, Run(ctx, Options{DataDir: dir, Ephemeral: true, Out: io.Discard, Environ: lookup(nil)}))
	require.NoDirExists(t, dir)
}
