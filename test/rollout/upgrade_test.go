package rollout

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
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

func git(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = dir
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("git %s: %w: %s", args[0], err, strings.TrimSpace(said.String()))
	}
	return strings.TrimSpace(string(out)), nil
}

// before finds the release before: the last tag before this commit, else the baseline. Its error says what the checkout lacks.
func before(ctx context.Context, root string) (commit, name string, err error) {
	name, err = git(ctx, root, "describe", "--tags", "--abbrev=0", "--match", "v*", "HEAD^")
	if err != nil || name == "" {
		name = baseline
	}
	commit, err = git(ctx, root, "rev-parse", "--verify", name+"^{commit}")
	if err == nil {
		return commit, name, nil
	}
	if shallow, asked := git(ctx, root, "rev-parse", "--is-shallow-repository"); asked == nil && shallow == "true" {
		return "", name, fmt.Errorf("this is a shallow clone, which does not reach back to %s: git fetch --unshallow --tags", name)
	}
	return "", name, fmt.Errorf("this checkout has no history with %s: %w", name, err)
}

// previous gives the source of the release before, and what it is. Where the checkout has no history, this tree stands for
// it, and what is left to be tested is this release alone: that is nothing for CI to be content with.
func previous(t *testing.T, root string) (source, name string) {
	t.Helper()
	commit, name, err := before(t.Context(), root)
	if err != nil {
		require.Empty(t, os.Getenv("CI"), "an upgrade cannot be tested: %s", err)
		t.Logf("NOT TESTED: an upgrade: %s. This tree stands for the release before it: only that its own programs and "+
			"migrations replace each other is tested.", err)
		return root, "this tree itself"
	}
	source = t.TempDir()
	archive := filepath.Join(source, "source.tar")
	_, err = git(t.Context(), root, "archive", "--format=tar", "--output="+archive, commit)
	require.NoError(t, err)
	out, err := exec.CommandContext(t.Context(), "tar", "-xf", archive, "-C", source).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return source, name
}

func TestACheckoutWithoutHistorySaysWhatItLacks(t *testing.T) {
	_, _, err := before(t.Context(), t.TempDir())
	require.ErrorContains(t, err, "has no history with "+baseline)
	whole, part := t.TempDir(), filepath.Join(t.TempDir(), "part")
	for _, args := range [][]string{
		{"init", "-q"},
		{"-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-q", "--allow-empty", "-m", "one"},
		{"-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-q", "--allow-empty", "-m", "two"},
		{"clone", "-q", "--depth=1", "file://" + whole, part},
	} {
		_, err := git(t.Context(), whole, args...)
		require.NoError(t, err)
	}
	_, _, err = before(t.Context(), part)
	require.ErrorContains(t, err, "shallow")
}

// expand migrates as far as this release needs it: without the contractions that come last.
func expand(t *testing.T, r *rig.Rig, service string) {
	t.Helper()
	needed, err := migrations.Needed(service)
	require.NoError(t, err)
	files, err := migrations.Files(service)
	require.NoError(t, err)
	db, err := sql.Open("pgx", r.OwnerURL(service))
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files,
		goose.WithTableName(service+".goose_db_version"), goose.WithDisableGlobalRegistry(true))
	require.NoError(t, err)
	_, err = provider.UpTo(t.Context(), needed)
	require.NoError(t, err)
}

// widen adds what a release to come may: a column to every table and a table, which no program of today knows.
func widen(t *testing.T, r *rig.Rig, service string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), r.OwnerURL(service))
	require.NoError(t, err)
	defer func() { _ = conn.Close(t.Context()) }()
	rows, err := conn.Query(t.Context(), `SELECT relname FROM pg_class
		WHERE relnamespace = $1::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition AND relname <> 'goose_db_version'`, service)
	require.NoError(t, err)
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.NotEmpty(t, tables)
	for _, table := range tables {
		_, err := conn.Exec(t.Context(), "ALTER TABLE "+pgx.Identifier{service, table}.Sanitize()+" ADD COLUMN of_tomorrow text")
		require.NoError(t, err, table)
	}
	_, err = conn.Exec(t.Context(), "CREATE TABLE "+service+".of_tomorrow (id bigint PRIMARY KEY)")
	require.NoError(t, err)
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
		expand(t, r, service)
		widen(t, r, service)
	}
	s.live(t, "release before, schema of this one without its contractions")

	// This release needs no contraction, and can be gone back from before one.
	order := []string{"audit", "registry", "token", "credentials"} // as docs/migrations.md says
	old := filepath.Join(dir, "bin")
	for _, service := range order {
		require.NoError(t, r.Replace(t.Context(), service, current))
	}
	s.live(t, "this release, schema without its contractions")
	for _, service := range slices.Backward(order) {
		require.NoError(t, r.Replace(t.Context(), service, old))
	}

	// From here as operators do: migrations are run whole while the release before serves.
	for _, service := range order {
		require.NoError(t, r.Migrate(t.Context(), service, current))
		s.live(t, "release before, "+service+" migrated")
	}
	for _, service := range order {
		require.NoError(t, r.Replace(t.Context(), service, current))
		s.live(t, "this release of "+service)
	}
	// And one back, with its own migration, as a rollback does; the others stay.
	require.NoError(t, r.Migrate(t.Context(), "registry", old))
	require.NoError(t, r.Replace(t.Context(), "registry", old))
	s.live(t, "registry gone back")
	require.NoError(t, r.Replace(t.Context(), "registry", current))
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
