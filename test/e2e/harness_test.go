// Package e2e drives the whole system as a stranger would: the real program as a process, HTTP through its one ingress,
// other people's OAuth clients. It imports no service and looks into no database; every answer it receives is held
// against the OpenAPI documents that the services publish themselves.
package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/testkit"
	"github.com/sentryagent/agentidp/pkg/testkit/apidoc"
)

// startDeadline is generous: the program may run instrumented on a busy machine.
const startDeadline = 2 * time.Minute

// shownComplaints is how many warnings and errors of each log a failed test shows.
const shownComplaints = 20

// program is the agentidp binary: AGENTIDP_BIN, or built once for this run.
var program = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("AGENTIDP_BIN"); path != "" {
		return path, nil
	}
	dir, err := os.MkdirTemp("", "agentidp-e2e-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "agentidp")
	out, err := exec.Command("go", "build", "-o", path, "github.com/sentryagent/agentidp/cmd/agentidp").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build agentidp: %w\n%s", err, out)
	}
	return path, nil
})

// installation is one running `agentidp dev`.
type installation struct {
	url          string
	clientID     string
	clientSecret string
	internal     map[string]string // service → base URL of its internal port
	internalKey  string            // the internal token
	dir          string
	port         int
	cmd          *exec.Cmd
	exited       chan error
	output       *testkit.Log
	specs        []*apidoc.Document
}

// install starts a fresh system whose data lives in a directory of the test; env holds KEY=value settings.
func install(t *testing.T, env ...string) *installation {
	t.Helper()
	return installAt(t, freePort(t), env...)
}

// installAt is install at a given port.
func installAt(t *testing.T, port int, env ...string) *installation {
	t.Helper()
	dir, err := os.MkdirTemp("", "agentidp-data-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return start(t, dir, port, env...)
}

// freePort answers a port of the loopback interface that nobody listens on, below those of outgoing connections, so that
// it is still free when the system is started again.
func freePort(t *testing.T) int {
	t.Helper()
	for range 100 {
		port := 10000 + rand.IntN(10000)
		listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			require.NoError(t, listener.Close())
			return port
		}
	}
	require.FailNow(t, "no free port")
	return 0
}

// start starts a system on dir and waits until its ingress says that all is there.
func start(t *testing.T, dir string, port int, env ...string) *installation {
	t.Helper()
	path, err := program()
	require.NoError(t, err)
	in := &installation{dir: dir, port: port, exited: make(chan error, 1), output: &testkit.Log{}, internal: map[string]string{}}
	_ = os.Remove(filepath.Join(dir, "services.json"))
	in.cmd = exec.Command(path, "dev", "--data-dir", dir, "--port", strconv.Itoa(port))
	in.cmd.Env = append(os.Environ(), env...)
	in.cmd.Stdout, in.cmd.Stderr = in.output, in.output
	require.NoError(t, in.cmd.Start())
	go func() { in.exited <- in.cmd.Wait() }()
	t.Cleanup(func() {
		in.stop(t)
		in.explain(t)
	})

	require.Eventually(t, func() bool { return in.ready(t) }, startDeadline, 50*time.Millisecond,
		"agentidp dev did not become healthy")
	in.readServices(t)
	return in
}

func (in *installation) ready(t *testing.T) bool {
	t.Helper()
	select {
	case err := <-in.exited:
		in.exited <- err
		require.FailNow(t, "agentidp dev ended", "%v\n%s", err, in.output)
	default:
	}
	values := readEnvFile(filepath.Join(in.dir, "operator.env"))
	in.url, in.clientID, in.clientSecret = values["AGENTIDP_URL"], values["AGENTIDP_CLIENT_ID"], values["AGENTIDP_CLIENT_SECRET"]
	if in.url == "" {
		return false
	}
	resp, err := http.Get(in.url + "/healthz")
	if err != nil {
		return false
	}
	defer func() { _ = resp.Body.Close() }()
	return resp.StatusCode == http.StatusOK
}

func readEnvFile(path string) map[string]string {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	values := map[string]string{}
	for line := range strings.Lines(string(content)) {
		if key, value, found := strings.Cut(strings.TrimSpace(line), "="); found {
			values[key] = strings.Trim(value, `"'`)
		}
	}
	return values
}

func (in *installation) readServices(t *testing.T) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(in.dir, "services.json"))
	require.NoError(t, err)
	var described servicesFile
	require.NoError(t, json.Unmarshal(content, &described))
	key, err := os.ReadFile(described.InternalTokenFile)
	require.NoError(t, err)
	in.internalKey = strings.TrimSpace(string(key))
	for name, service := range described.Services {
		in.internal[name] = service.InternalURL
		in.specs = append(in.specs, loadSpec(t, service.InternalURL+"/openapi.yaml"))
	}
	require.Len(t, in.specs, 4)
}

func loadSpec(t *testing.T, address string) *apidoc.Document {
	t.Helper()
	resp, err := http.Get(address)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	content, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	doc, err := apidoc.Parse(content)
	require.NoError(t, err, address)
	require.NoError(t, doc.Rules(t.Context(), "Error", "TokenError", "EndpointError"), address)
	return doc
}

// stop ends the system as Ctrl-C does and waits for it.
func (in *installation) stop(t *testing.T) {
	t.Helper()
	select {
	case err := <-in.exited:
		in.exited <- err
		return
	default:
	}
	require.NoError(t, in.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case err := <-in.exited:
		in.exited <- err
		require.NoError(t, err, "agentidp dev must exit 0 on SIGTERM:\n%s", in.output)
	case <-time.After(40 * time.Second):
		_ = in.cmd.Process.Kill()
		require.FailNow(t, "agentidp dev did not stop on SIGTERM", "%s", in.output)
	}
}

// explain shows what the services and servers complained of, if the test has failed: an answer 503 does not say why.
func (in *installation) explain(t *testing.T) {
	t.Helper()
	if !t.Failed() {
		return
	}
	paths, err := filepath.Glob(filepath.Join(in.dir, "logs", "*.log"))
	require.NoError(t, err)
	for _, path := range paths {
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		var complaints []string
		for line := range strings.Lines(string(content)) {
			if strings.Contains(line, `"level":"ERROR"`) || strings.Contains(line, `"level":"WARN"`) {
				complaints = append(complaints, line)
			}
		}
		complaints = complaints[:min(len(complaints), shownComplaints)]
		t.Logf("%s, the first complaints:\n%s", filepath.Base(path), strings.Join(complaints, ""))
	}
}

// kill ends the program the hard way and waits until it is gone.
func (in *installation) kill(t *testing.T) {
	t.Helper()
	require.NoError(t, in.cmd.Process.Kill())
	err := <-in.exited
	in.exited <- err
}

// answer is a response, read whole.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) decode(t *testing.T, into any) {
	t.Helper()
	require.NoError(t, json.Unmarshal(a.body, into), "%s", a.body)
}

// object is the body as a JSON object.
func (a answer) object(t *testing.T) map[string]any {
	t.Helper()
	var out map[string]any
	a.decode(t, &out)
	return out
}

// code is the error code of the body, or "".
func (a answer) code() string {
	var body struct{ Code string }
	_ = json.Unmarshal(a.body, &body)
	return body.Code
}

// oauthError is the "error" of an OAuth error body, or "".
func (a answer) oauthError() string {
	var body struct {
		Error string `json:"error"`
	}
	_ = json.Unmarshal(a.body, &body)
	return body.Error
}

// do sends a request as it is and holds the answer against the contract: headers that every answer carries, and the
// OpenAPI document of whichever service the path belongs to.
func (in *installation) do(t *testing.T, req *http.Request) answer {
	t.Helper()
	got, err := in.try(req)
	require.NoError(t, err)
	in.check(t, req, got)
	return got
}

// try is do without any expectation, for requests that may meet a system that is being killed.
func (in *installation) try(req *http.Request) (answer, error) {
	resp, err := client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return answer{status: resp.StatusCode, header: resp.Header, body: body}, err
}

// client keeps connections, follows no redirect and never waits for ever.
var client = &http.Client{
	Timeout:       30 * time.Second,
	Transport:     &http.Transport{MaxIdleConnsPerHost: 256},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

func (in *installation) check(t *testing.T, req *http.Request, got answer) {
	t.Helper()
	where := fmt.Sprintf("%s %s → %d %s", req.Method, req.URL, got.status, got.body)
	require.Less(t, got.status, 500, where)
	require.NotEmpty(t, got.header.Get("X-Request-ID"), where)
	require.Equal(t, "nosniff", got.header.Get("X-Content-Type-Options"), where)
	require.Equal(t, "default-src 'none'", got.header.Get("Content-Security-Policy"), where)
	require.Equal(t, "no-referrer", got.header.Get("Referrer-Policy"), where)
	if !public(req.URL.Path) {
		return // the documents also know the internal ports' routes, which are not to be had here
	}
	for _, spec := range in.specs {
		err := spec.Answer(req, got.status, got.header, got.body)
		if errors.Is(err, apidoc.ErrNotDescribed) {
			continue
		}
		require.NoError(t, err)
		return
	}
	require.Contains(t, []int{http.StatusNotFound, http.StatusMethodNotAllowed}, got.status, "no OpenAPI document knows "+where)
}

// public tells whether a path is one of those that the ingress may route, as the documents write it: without the path of
// an issuer that has one.
func public(path string) bool {
	wellKnown, found := strings.CutPrefix(path, "/.well-known/")
	return strings.HasPrefix(path, "/api/v1/") || (found && !strings.Contains(wellKnown, "/")) || path == "/oauth2/authorize"
}

// call sends a JSON request with a bearer token ("" sends none) to the ingress.
func (in *installation) call(t *testing.T, method, path, token string, body any) answer {
	t.Helper()
	return in.do(t, in.request(t, method, path, token, body))
}

func (in *installation) request(t *testing.T, method, path, token string, body any) *http.Request {
	t.Helper()
	var payload io.Reader
	switch body := body.(type) {
	case nil:
	case string:
		payload = strings.NewReader(body)
	default:
		encoded, err := json.Marshal(body)
		require.NoError(t, err)
		payload = bytes.NewReader(encoded)
	}
	req, err := http.NewRequest(method, in.url+path, payload)
	require.NoError(t, err)
	if payload != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return req
}

// form posts url-encoded fields; edit may change the request.
func (in *installation) form(t *testing.T, path string, fields url.Values, edit ...func(*http.Request)) answer {
	t.Helper()
	return in.do(t, in.formRequest(t, path, fields, edit...))
}

func (in *installation) formRequest(t *testing.T, path string, fields url.Values, edit ...func(*http.Request)) *http.Request {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, in.url+path, strings.NewReader(fields.Encode()))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for _, change := range edit {
		change(req)
	}
	return req
}

func bearer(token string) func(*http.Request) {
	return func(req *http.Request) { req.Header.Set("Authorization", "Bearer "+token) }
}

func basic(id, secret string) func(*http.Request) {
	return func(req *http.Request) { req.SetBasicAuth(url.QueryEscape(id), url.QueryEscape(secret)) }
}

func from(ip string) func(*http.Request) {
	return func(req *http.Request) { req.Header.Set("X-Forwarded-For", ip) }
}

const allScopes = "agents:read agents:write tokens:read audit:read agents:admin"

// token asks for a token by form and demands one.
func (in *installation) token(t *testing.T, id, secret, scope string) string {
	t.Helper()
	fields := url.Values{"grant_type": {"client_credentials"}, "client_id": {id}, "client_secret": {secret}}
	if scope != "" {
		fields.Set("scope", scope)
	}
	got := in.form(t, "/api/v1/token", fields)
	require.Equal(t, http.StatusOK, got.status, "%s", got.body)
	return got.object(t)["access_token"].(string)
}

func (in *installation) operator(t *testing.T) string {
	t.Helper()
	return in.token(t, in.clientID, in.clientSecret, allScopes)
}

// agentBody is a registration that is right; fields replaces or, with nil, removes.
func agentBody(email string, fields map[string]any) map[string]any {
	body := map[string]any{
		"email": email, "agentType": "screener", "version": "1.2.3", "capabilities": []string{"resume:read"},
		"owner": "talent", "deploymentEnv": "production",
	}
	for name, value := range fields {
		if value == nil {
			delete(body, name)
		} else {
			body[name] = value
		}
	}
	return body
}

// register registers an agent and answers its id.
func (in *installation) register(t *testing.T, token, email string, fields map[string]any) string {
	t.Helper()
	got := in.call(t, http.MethodPost, "/api/v1/agents", token, agentBody(email, fields))
	require.Equal(t, http.StatusCreated, got.status, "%s", got.body)
	return got.object(t)["agentId"].(string)
}

// credential generates a credential and answers its id and its secret.
func (in *installation) credential(t *testing.T, token, agentID string) (id, secret string) {
	t.Helper()
	got := in.call(t, http.MethodPost, "/api/v1/agents/"+agentID+"/credentials", token, map[string]any{})
	require.Equal(t, http.StatusCreated, got.status, "%s", got.body)
	body := got.object(t)
	return body["credentialId"].(string), body["clientSecret"].(string)
}

// eventually waits at most the second that the contract grants.
func eventually(t *testing.T, condition func() bool, message string) {
	t.Helper()
	require.Eventually(t, condition, grace(time.Second), 20*time.Millisecond, message)
}

// grace stretches a promise of the contract where the race detector and a shared machine make everything slower.
func grace(promise time.Duration) time.Duration { return 3 * promise }

// trail is every event that matches the query, oldest first.
func (in *installation) trail(t *testing.T, token, query string) []map[string]any {
	t.Helper()
	var events []map[string]any
	cursor := ""
	for {
		got := in.call(t, http.MethodGet, "/api/v1/audit?limit=100&"+query+cursor, token, nil)
		require.Equal(t, http.StatusOK, got.status, "%s", got.body)
		var page struct {
			Data       []map[string]any
			NextCursor string
		}
		got.decode(t, &page)
		events = append(events, page.Data...)
		if page.NextCursor == "" {
			slices.Reverse(events)
			return events
		}
		cursor = "&cursor=" + url.QueryEscape(page.NextCursor)
	}
}

func actions(events []map[string]any) []string {
	names := make([]string, 0, len(events))
	for _, event := range events {
		names = append(names, event["action"].(string))
	}
	return names
}

// servicesFile is what `agentidp dev` leaves for scripts in services.json.
type servicesFile struct {
	URL               string
	InternalTokenFile string
	Services          map[string]struct{ PublicURL, InternalURL string }
}
