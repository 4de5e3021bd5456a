package rollout

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
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/migrations"
	"github.com/sentryagent/agentidp/test/internal/rig"
)

const (
	// baseline stands for the release before as long as none is tagged: a commit of before the services could read the
	// version of their schema.
	baseline = "e4166cd"

	patience = time.Minute
	often    = 20 * time.Millisecond
	scopes   = "agents:read agents:write tokens:read audit:read agents:admin"
)

// previous gives the source of the release before, and what it is: the last tag before this commit, else the baseline. A
// checkout without history has neither; then this tree stands for it, and what is left to be tested is this release alone.
func previous(t *testing.T, root string) (source, name string) {
	t.Helper()
	git := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "git", args...)
		cmd.Dir = root
		out, err := cmd.Output()
		return strings.TrimSpace(string(out)), err
	}
	name, err := git("describe", "--tags", "--abbrev=0", "--match", "v*", "HEAD^")
	if err != nil || name == "" {
		name = baseline
	}
	commit, err := git("rev-parse", "--verify", "--quiet", name+"^{commit}")
	if err != nil {
		t.Logf("NOT TESTED: an upgrade. This checkout has no history with %s, so this tree stands for the release before it: "+
			"only that its own programs and migrations replace each other is tested.", name)
		return root, "this tree itself"
	}
	source = t.TempDir()
	archive := filepath.Join(source, "source.tar")
	_, err = git("archive", "--format=tar", "--output="+archive, commit)
	require.NoError(t, err)
	out, err := exec.CommandContext(t.Context(), "tar", "-xf", archive, "-C", source).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return source, name
}

func TestThisReleaseFollowsTheOneBeforeWithoutDowntime(t *testing.T) {
	current, root := programs(t)
	source, name := previous(t, root)
	t.Logf("the release before is %s", name)
	dir, err := os.MkdirTemp("", "agentidp-upgrade-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	r, err := rig.Start(t.Context(), rig.Config{Root: source, Dir: dir, Out: t.Output()})
	if r != nil {
		t.Cleanup(func() { require.NoError(t, r.Stop()) })
	}
	require.NoError(t, err)
	s := &releases{Rig: r}
	s.live(t, "release before, its schema")

	for _, service := range rig.Services() {
		require.NoError(t, migrations.Expand(t.Context(), service, r.OwnerURL(service), nil))
	}
	s.live(t, "release before, schema of this one")

	for _, service := range []string{"audit", "registry", "token", "credentials"} { // as docs/migrations.md says
		require.NoError(t, r.Replace(t.Context(), service, current))
		s.live(t, "this release of "+service)
	}
	// And one back, as a rollback does; the others stay.
	require.NoError(t, r.Replace(t.Context(), "registry", filepath.Join(dir, "bin")))
	s.live(t, "registry gone back")
	require.NoError(t, r.Replace(t.Context(), "registry", current))

	for _, service := range rig.Services() {
		require.NoError(t, migrations.Apply(t.Context(), service, r.OwnerURL(service), nil))
	}
	s.live(t, "this release, its schema")
}

// releases is one replica of each service.
type releases struct {
	*rig.Rig

	lives int
}

// live takes one agent past every service, from its registration to its end.
func (s *releases) live(t *testing.T, when string) {
	t.Helper()
	s.lives++
	operator, err := s.Token(t.Context(), s.Operator(), scopes)
	require.NoError(t, err, when)
	call := func(want int, method, service, path, body string) map[string]any {
		t.Helper()
		status, answer := send(t, method, "http://"+s.Public(service)+path, operator, body)
		require.Equal(t, want, status, "%s: %s %s: %s", when, method, path, answer)
		out := map[string]any{}
		if len(answer) > 0 {
			require.NoError(t, json.Unmarshal(answer, &out), when)
		}
		return out
	}
	agent := call(http.StatusCreated, http.MethodPost, "registry", "/api/v1/agents", fmt.Sprintf(
		`{"email":"agent-%d@example.com","agentType":"screener","version":"1.0.0","capabilities":["resume:read"],"owner":"talent","deploymentEnv":"staging"}`,
		s.lives))["agentId"].(string)
	credentials := "/api/v1/agents/" + agent + "/credentials"
	created := call(http.StatusCreated, http.MethodPost, "credentials", credentials, "{}")
	secret := call(http.StatusOK, http.MethodPost, "credentials", credentials+"/"+created["credentialId"].(string)+"/rotate", "{}")["clientSecret"].(string)
	token, err := s.Token(t.Context(), rig.Client{ID: agent, Secret: secret}, "agents:read resume:read")
	require.NoError(t, err, when)
	status, _ := send(t, http.MethodGet, "http://"+s.Public("registry")+"/api/v1/agents/"+agent, token, "")
	require.Equal(t, http.StatusOK, status, when)
	introspect := func() bool {
		status, answer := send(t, http.MethodPost, "http://"+s.Public("token")+"/api/v1/token/introspect", operator, url.Values{"token": {token}}.Encode())
		require.Equal(t, http.StatusOK, status, "%s: %s", when, answer)
		return bytes.Contains(answer, []byte(`"active":true`))
	}
	require.True(t, introspect(), when)
	call(http.StatusOK, http.MethodPatch, "registry", "/api/v1/agents/"+agent, `{"status":"suspended"}`)
	require.Eventually(t, func() bool { return !introspect() }, patience, often, when)
	call(http.StatusNoContent, http.MethodDelete, "registry", "/api/v1/agents/"+agent, "")
	// registered, credential made and rotated, its token, suspended, decommissioned; introspections are of the operator.
	for _, action := range []string{"agent.created", "credential.generated", "credential.rotated", "token.issued", "agent.suspended", "agent.decommissioned"} {
		require.Eventually(t, func() bool {
			return call(http.StatusOK, http.MethodGet, "audit", "/api/v1/audit?agentId="+agent+"&action="+action, "")["total"] == 1.0
		}, patience, often, "%s: %s", when, action)
	}
}

func send(t *testing.T, method, address, token, body string) (status int, answer []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, address, strings.NewReader(body))
	require.NoError(t, err)
	request.Header.Set("Authorization", "Bearer "+token)
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if strings.HasPrefix(body, "{") {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	answer, err = io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, answer
}
