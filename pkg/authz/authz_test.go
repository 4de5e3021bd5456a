package authz_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/authz"
	"github.com/sentryagent/agentidp/pkg/testkit"
)

const (
	me    = "0190a7c0-0000-7000-8000-000000000001"
	other = "0190a7c0-0000-7000-8000-000000000002"
)

func embeddedPolicy(tb testing.TB) *authz.Authorizer {
	tb.Helper()
	a, err := authz.New(tb.Context(), authz.Config{}, slog.New(slog.DiscardHandler))
	require.NoError(tb, err)
	return a
}

func TestDecide(t *testing.T) {
	t.Parallel()
	a := embeddedPolicy(t)
	no := false
	for name, row := range map[string]struct {
		in   authz.Input
		want authz.Decision
	}{
		"a scope that is there": {
			authz.Input{Method: "GET", Path: "/api/v1/agents", Scopes: []string{authz.ScopeAgentsRead}, Subject: me, Authentication: authz.AuthenticationBearer},
			authz.Decision{Allow: true},
		},
		"a scope that lacks": {
			authz.Input{Method: "GET", Path: "/api/v1/audit", Scopes: []string{authz.ScopeAgentsRead}, Subject: me, Authentication: authz.AuthenticationBearer},
			authz.Decision{Reason: "scope audit:read is required", Scope: authz.ScopeAuditRead},
		},
		"no scopes at all": {
			authz.Input{Method: "GET", Path: "/api/v1/agents", Subject: me, Authentication: authz.AuthenticationBearer},
			authz.Decision{Reason: "scope agents:read is required", Scope: authz.ScopeAgentsRead},
		},
		"every field of a resource reaches the policy: agentId": {
			change(authz.Resource{AgentID: me}), authz.Decision{Allow: true},
		},
		"every field of a resource reaches the policy: owner": {
			change(authz.Resource{AgentID: other, Owner: "team-a"}), authz.Decision{Allow: true},
		},
		"every field of a resource reaches the policy: registeredBy": {
			change(authz.Resource{AgentID: other, RegisteredBy: me}), authz.Decision{Allow: true},
		},
		"every field of a resource reaches the policy: exists": {
			change(authz.Resource{AgentID: other, Exists: &no}), authz.Decision{Allow: true},
		},
		"every field of a resource reaches the policy: mayRequest": {
			change(authz.Resource{AgentID: other, Owner: "team-a", MayRequest: []string{authz.ScopeAgentsAdmin}}),
			authz.Decision{Reason: "only the agent itself or a holder of agents:admin may change an agent that may request agents:admin"},
		},
		"every field of a resource reaches the policy: allowedScopes": {
			change(authz.Resource{AgentID: me, AllowedScopes: []string{authz.ScopeAuditRead, authz.ScopeAgentsAdmin}}),
			authz.Decision{Reason: "allowedScopes goes beyond the caller's scopes: agents:admin audit:read"},
		},
		"a rule and not a scope": {
			change(authz.Resource{AgentID: other, Owner: "team-b", RegisteredBy: other}),
			authz.Decision{Reason: "the agent is neither the caller, nor registered by it, nor of the same owner"},
		},
		"a client for a token of another": {
			authz.Input{Method: "POST", Path: "/api/v1/token/revoke", Subject: me, Authentication: authz.AuthenticationClient, Resource: &authz.Resource{AgentID: other}},
			authz.Decision{Reason: "only a holder of agents:admin may revoke a token of another agent"},
		},
		"no authentication": {
			authz.Input{Method: "GET", Path: "/api/v1/agents", Scopes: []string{authz.ScopeAgentsAdmin}, Subject: me},
			authz.Decision{Reason: "an access token is required"},
		},
		"a route that nobody named": {
			authz.Input{Method: "PUT", Path: "/api/v1/agents", Scopes: []string{authz.ScopeAgentsAdmin}, Subject: me, Authentication: authz.AuthenticationBearer},
			authz.Decision{Reason: "no rule allows this request"},
		},
		"nothing": {authz.Input{}, authz.Decision{Reason: "no rule allows this request"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := a.Decide(t.Context(), row.in)
			require.NoError(t, err)
			require.Equal(t, row.want, got)
		})
	}
}

func change(resource authz.Resource) authz.Input {
	return authz.Input{
		Method: "PATCH", Path: "/api/v1/agents/" + resource.AgentID, Scopes: []string{authz.ScopeAgentsWrite}, Subject: me, Owner: "team-a",
		Authentication: authz.AuthenticationBearer, Resource: &resource,
	}
}

func TestScopes(t *testing.T) {
	t.Parallel()
	require.Equal(t, []string{"agents:read", "agents:write", "tokens:read", "audit:read", "agents:admin"}, authz.SystemScopes())
	require.True(t, authz.IsSystemScope("audit:read"))
	require.False(t, authz.IsSystemScope("resume:read"))
	require.Equal(t, []string{"resume:read", "agents:read"}, authz.Effective([]string{"resume:read", "agents:read", "resume:read"}))
	require.Equal(t, []string{"agents:admin", "resume:read", "agents:read", "agents:write", "tokens:read", "audit:read"},
		authz.Effective([]string{"agents:admin", "resume:read"}))
	require.Empty(t, authz.Effective(nil))
	require.Equal(t, []string{"agents", "tokens", "audit"}, authz.ReservedResources())
}

// TestThePolicyAgreesWithEffective holds the two definitions of the system scopes, in Go and in Rego, together.
func TestThePolicyAgreesWithEffective(t *testing.T) {
	t.Parallel()
	a := embeddedPolicy(t)
	for _, scope := range append(authz.SystemScopes(), "resume:read") {
		for _, caller := range [][]string{{authz.ScopeAgentsAdmin}, {authz.ScopeAgentsWrite}} {
			d, err := a.Decide(t.Context(), authz.Input{
				Method: "POST", Path: "/api/v1/agents", Scopes: caller, Subject: me, Authentication: authz.AuthenticationBearer,
				Resource: &authz.Resource{AllowedScopes: []string{scope}},
			})
			require.NoError(t, err)
			require.Equal(t, contains(authz.Effective(caller), scope), d.Allow, "%s by %s", scope, caller)
		}
	}
}

func contains(list []string, s string) bool {
	for _, v := range list {
		if v == s {
			return true
		}
	}
	return false
}

const (
	allowAll = "package agentidp.authz\nallow := true\nreason := \"\"\n"
	denyAll  = "package agentidp.authz\nallow := false\nreason := \"closed today\"\nscope := \"audit:read\"\n"
)

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
}

func request() authz.Input {
	return authz.Input{Method: "PUT", Path: "/x", Subject: me, Authentication: authz.AuthenticationBearer}
}

func TestPolicyDirReplacesTheEmbeddedPolicy(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		files map[string]string
		want  authz.Decision
	}{
		"one file that allows": {map[string]string{"p.rego": allowAll}, authz.Decision{Allow: true}},
		"one file that denies": {map[string]string{"p.rego": denyAll}, authz.Decision{Reason: "closed today", Scope: "audit:read"}},
		"several files, tests, hidden files and others": {map[string]string{
			"a.rego":      "package agentidp.authz\nallow := data.agentidp.rules.open\n",
			"b.rego":      "package agentidp.authz\nreason := \"\"\n",
			"rules.rego":  "package agentidp.rules\nopen := true\n",
			"x_test.rego": "package agentidp.authz\nthis is no rego",
			".hidden":     "nor is this",
			".x.rego":     "nor is this",
			"README.md":   "nor is this",
		}, authz.Decision{Allow: true}},
		"an undefined allow denies": {
			map[string]string{"p.rego": "package agentidp.authz\nallow if input.method == \"GET\"\nreason := \"no\"\n"},
			authz.Decision{Reason: "the policy does not allow this request"},
		},
		"an undefined reason does not hide what allow says": {
			map[string]string{"p.rego": "package agentidp.authz\nallow := true\nreason := \"no\" if false\n"},
			authz.Decision{Allow: true},
		},
		"a denial without reason still has one": {
			map[string]string{"p.rego": "package agentidp.authz\nallow := false\nreason := \"no\" if false\n"},
			authz.Decision{Reason: "the policy does not allow this request"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for name, text := range row.files {
				write(t, dir, name, text)
			}
			a, err := authz.New(t.Context(), authz.Config{PolicyDir: dir}, slog.New(slog.DiscardHandler))
			require.NoError(t, err)
			got, err := a.Decide(t.Context(), request())
			require.NoError(t, err)
			require.Equal(t, row.want, got)
		})
	}
}

func TestABrokenPolicyDirIsAnErrorAtTheStart(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct{ text, want string }{
		"not Rego":               {"allow :=", "compile policy"},
		"another package":        {"package other\nallow := true\nreason := \"\"\n", "no rule allow"},
		"no allow":               {"package agentidp.authz\nreason := \"\"\n", "no rule allow"},
		"no reason":              {"package agentidp.authz\nallow := true\n", "no rule reason"},
		"an allow that is text":  {"package agentidp.authz\nallow := \"yes\"\nreason := \"\"\n", "allow is string"},
		"a reason that is a set": {"package agentidp.authz\nallow := false\nreason contains \"x\"\n", "reason is"},
		"a scope that is a list": {"package agentidp.authz\nallow := false\nreason := \"\"\nscope := [\"a\"]\n", "scope is"},
		"two answers":            {"package agentidp.authz\nallow := true\nallow := false\nreason := \"\"\n", "try policy"},
		"an unsafe variable":     {"package agentidp.authz\nallow if x\nreason := \"\"\n", "compile policy"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			write(t, dir, "p.rego", row.text)
			_, err := authz.New(t.Context(), authz.Config{PolicyDir: dir}, slog.New(slog.DiscardHandler))
			require.ErrorContains(t, err, row.want)
		})
	}
	require.ErrorContains(t, authz.Config{PolicyDir: t.TempDir()}.Validate(), "POLICY_DIR")
	require.NoError(t, authz.Config{}.Validate())
	require.NoError(t, authz.Config{PolicyDir: "policy"}.Validate())
	_, err := authz.New(t.Context(), authz.Config{PolicyDir: t.TempDir()}, slog.New(slog.DiscardHandler))
	require.ErrorContains(t, err, "no .rego file")
	_, err = authz.New(t.Context(), authz.Config{PolicyDir: filepath.Join(t.TempDir(), "none")}, slog.New(slog.DiscardHandler))
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestTheEmbeddedPolicyCanBeCopiedAsAPolicyDir(t *testing.T) {
	t.Parallel()
	a, err := authz.New(t.Context(), authz.Config{PolicyDir: "policy"}, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	d, err := a.Decide(t.Context(), request())
	require.NoError(t, err)
	require.Equal(t, authz.Decision{Reason: "no rule allows this request"}, d)
}

// running is an authorizer whose files are watched.
func running(t *testing.T, dir string) (*authz.Authorizer, *testkit.Log) {
	t.Helper()
	log := &testkit.Log{}
	a, err := authz.New(t.Context(), authz.Config{PolicyDir: dir}, slog.New(slog.NewJSONHandler(log, nil)))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	require.Eventually(t, func() bool { return log.Count("policy loaded") == 1 }, 10*time.Second, time.Millisecond, "it watches")
	return a, log
}

func eventually(t *testing.T, a *authz.Authorizer, allow bool) {
	t.Helper()
	require.Eventually(t, func() bool {
		d, err := a.Decide(context.Background(), request())
		return err == nil && d.Allow == allow
	}, 10*time.Second, 5*time.Millisecond)
}

func TestAChangedFileIsLoaded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "p.rego", denyAll)
	a, _ := running(t, dir)
	eventually(t, a, false)

	write(t, dir, "p.rego", allowAll)
	eventually(t, a, true)
	// As editors do it: a new file takes the place of the old one.
	write(t, dir, "p.tmp", denyAll)
	require.NoError(t, os.Rename(filepath.Join(dir, "p.tmp"), filepath.Join(dir, "p.rego")))
	eventually(t, a, false)
}

func TestABrokenChangeIsRefusedAndTheOldPolicyStays(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "p.rego", allowAll)
	a, log := running(t, dir)

	write(t, dir, "p.rego", "package agentidp.authz\nallow := ")
	require.Eventually(t, func() bool { return log.Count("policy refused") > 0 }, 10*time.Second, time.Millisecond)
	require.Positive(t, log.Count(`"level":"ERROR"`))
	eventually(t, a, true)

	require.NoError(t, os.Remove(filepath.Join(dir, "p.rego")))
	require.Eventually(t, func() bool { return log.Count("no .rego file") > 0 }, 10*time.Second, time.Millisecond)
	eventually(t, a, true)

	write(t, dir, "p.rego", denyAll)
	eventually(t, a, false)
}

func TestAConfigMapThatIsSwappedIsLoaded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	// The kubelet's layout: p.rego → ..data/p.rego, ..data → ..version, and ..data is replaced by a rename.
	mount := func(version, text string) {
		require.NoError(t, os.Mkdir(filepath.Join(dir, version), 0o700))
		write(t, filepath.Join(dir, version), "p.rego", text)
		require.NoError(t, os.Symlink(version, filepath.Join(dir, "..data_tmp")))
		require.NoError(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
	}
	mount("..1", denyAll)
	require.NoError(t, os.Symlink(filepath.Join("..data", "p.rego"), filepath.Join(dir, "p.rego")))
	a, _ := running(t, dir)
	eventually(t, a, false)
	mount("..2", allowAll)
	require.NoError(t, os.RemoveAll(filepath.Join(dir, "..1")))
	eventually(t, a, true)
}

func TestADirectoryThatIsReplacedIsWatchedAgain(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	dir := filepath.Join(parent, "policy")
	replace := func(text string) {
		next := filepath.Join(parent, "next")
		require.NoError(t, os.Mkdir(next, 0o700))
		write(t, next, "p.rego", text)
		require.NoError(t, os.RemoveAll(dir))
		require.NoError(t, os.Rename(next, dir))
	}
	replace(denyAll)
	a, _ := running(t, dir)
	replace(allowAll)
	eventually(t, a, true)
	write(t, dir, "p.rego", denyAll)
	eventually(t, a, false)
}

func TestSIGHUPReloads(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "p.rego", allowAll)
	_, log := running(t, dir)
	require.NoError(t, syscall.Kill(os.Getpid(), syscall.SIGHUP))
	require.Eventually(t, func() bool { return log.Count(`"why":"SIGHUP"`) == 1 }, 10*time.Second, time.Millisecond)
}

func TestSIGHUPReloadsAlsoWhatCannotBeWatched(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "policy")
	require.NoError(t, os.Mkdir(dir, 0o700))
	write(t, dir, "p.rego", allowAll)
	log := &testkit.Log{}
	a, err := authz.New(t.Context(), authz.Config{PolicyDir: dir}, slog.New(slog.NewJSONHandler(log, nil)))
	require.NoError(t, err)
	require.NoError(t, os.Rename(dir, dir+"2"))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	require.Eventually(t, func() bool { return log.Count("only SIGHUP reloads") == 1 && log.Count("policy refused") == 1 }, 10*time.Second, time.Millisecond)
	eventually(t, a, true)

	write(t, dir+"2", "p.rego", denyAll)
	require.NoError(t, os.Rename(dir+"2", dir))
	require.NoError(t, syscall.Kill(os.Getpid(), syscall.SIGHUP))
	eventually(t, a, false)
	cancel()
	require.NoError(t, <-ended)
}

func TestRunWithoutPolicyDirOnlyWaits(t *testing.T) {
	t.Parallel()
	a := embeddedPolicy(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, a.Run(ctx))
}

func TestDecisionsGoOnWhileThePolicyIsReloaded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "p.rego", allowAll)
	a, log := running(t, dir)
	var group sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		group.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if d, err := a.Decide(context.Background(), request()); err != nil || !d.Allow {
					t.Errorf("decision %v, error %v", d, err)
					return
				}
			}
		})
	}
	for i := range 3 {
		write(t, dir, "p.rego", allowAll+strings.Repeat("\n", i))
		loaded := i + 2
		require.Eventually(t, func() bool { return log.Count("policy loaded") >= loaded }, 10*time.Second, time.Millisecond)
	}
	close(stop)
	group.Wait()
}

func BenchmarkDecide(b *testing.B) {
	a := embeddedPolicy(b)
	in := change(authz.Resource{AgentID: other, Owner: "team-a", RegisteredBy: other})
	for b.Loop() {
		if _, err := a.Decide(b.Context(), in); err != nil {
			b.Fatal(err)
		}
	}
}
