package authz

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTheSameInputIsEvaluatedOnce(t *testing.T) {
	t.Parallel()
	a, err := New(t.Context(), Config{}, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	in := Input{Method: "GET", Path: "/api/v1/agents", Scopes: []string{ScopeAgentsRead}, Authentication: AuthenticationBearer}
	first, err := a.Decide(t.Context(), in)
	require.NoError(t, err)
	require.True(t, first.Allow)

	marked := Decision{Reason: "from memory"}
	a.policy.Load().decided.Set(in.memoKey(), marked)
	again, err := a.Decide(t.Context(), in)
	require.NoError(t, err)
	require.Equal(t, marked, again)

	in.Scopes = nil
	other, err := a.Decide(t.Context(), in)
	require.NoError(t, err)
	require.Equal(t, Decision{Reason: "scope agents:read is required", Scope: ScopeAgentsRead}, other, "another input is evaluated")

	require.NoError(t, a.load(t.Context()))
	again, err = a.Decide(t.Context(), Input{Method: in.Method, Path: in.Path, Scopes: []string{ScopeAgentsRead}, Authentication: in.Authentication})
	require.NoError(t, err)
	require.Equal(t, first, again, "a policy that was loaded anew remembers nothing of the one before it")
}

func TestInputsThatDifferHaveDifferentKeys(t *testing.T) {
	t.Parallel()
	yes, no := true, false
	seen := map[string]Input{}
	for _, in := range []Input{
		{}, {Method: "GET"}, {Path: "GET"}, {Subject: "a"}, {Owner: "a"}, {Authentication: "a"},
		{Subject: "a", Owner: "b"}, {Subject: "ab"}, {Owner: "ab"}, {Subject: "a1:b"},
		{Owner: "a:b"}, {Owner: "a", Authentication: "b:"}, {Scopes: []string{"a:b", "c"}}, {Scopes: []string{"a", "b:c"}},
		{Scopes: []string{"a", "b"}}, {Scopes: []string{"a b"}}, {Scopes: []string{"b", "a"}}, {Scopes: []string{""}},
		{Resource: &Resource{}}, {Resource: &Resource{Exists: &yes}}, {Resource: &Resource{Exists: &no}},
		{Resource: &Resource{AgentID: "a"}}, {Resource: &Resource{Owner: "a"}}, {Resource: &Resource{RegisteredBy: "a"}},
		{Resource: &Resource{AllowedScopes: []string{}}}, {Resource: &Resource{AllowedScopes: []string{"a"}}},
		{Resource: &Resource{MayRequest: []string{}}}, {Resource: &Resource{MayRequest: []string{"a"}}},
		{Resource: &Resource{MayRequest: []string{}, AllowedScopes: []string{}}},
		{Scopes: []string{"a"}, Resource: &Resource{}},
	} {
		key := in.memoKey()
		other, taken := seen[key]
		require.False(t, taken, "%+v and %+v", in, other)
		seen[key] = in
	}
	require.Equal(t, Input{Scopes: nil}.memoKey(), Input{Scopes: []string{}}.memoKey(), "no scopes are no scopes")
}

func TestLongInputsAreNotRemembered(t *testing.T) {
	t.Parallel()
	a, err := New(t.Context(), Config{}, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	_, err = a.Decide(t.Context(), Input{Path: strings.Repeat("x", memoMaxKey)})
	require.NoError(t, err)
	require.Zero(t, a.policy.Load().decided.EstimatedSize())
}

func TestAPolicyThatLooksAtMoreThanItsInputIsAskedEachTime(t *testing.T) {
	t.Parallel()
	for name, rule := range map[string]struct {
		text string
		pure bool
	}{
		"input only":                  {`allow if input.method == "GET"`, true},
		"the time":                    {`allow if time.now_ns() > 0`, false},
		"the time, in a helper":       {"late if time.now_ns() > 0\nallow if late", false},
		"random numbers":              {`allow if rand.intn("x", 2) >= 0`, false},
		"the network, nested":         {`allow if count([r | r := http.send({"method": "GET", "url": "http://127.0.0.1:1", "raise_error": false})]) == 1`, false},
		"the expiry of a token":       {"allow if {\n\tinput.method == \"NONE\"\n\tio.jwt.decode_verify(input.path, {\"secret\": \"s\"})[0]\n}", false},
		"the expiry of a certificate": {"allow if crypto.x509.parse_and_verify_certificates(input.path)[0]", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			text := "package agentidp.authz\ndefault allow := false\ndefault reason := \"\"\n" + rule.text + "\n"
			require.NoError(t, os.WriteFile(filepath.Join(dir, "p.rego"), []byte(text), 0o600))
			a, err := New(t.Context(), Config{PolicyDir: dir}, slog.New(slog.DiscardHandler))
			require.NoError(t, err)
			require.Equal(t, rule.pure, a.policy.Load().decided != nil)
		})
	}
}
