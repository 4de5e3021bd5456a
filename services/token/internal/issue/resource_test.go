package issue_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/services/token/internal/issue"
)

// claimsOf reads what the fake key signed.
func claimsOf(t *testing.T, token issue.Token) map[string]any {
	t.Helper()
	var claims map[string]any
	require.NoError(t, json.Unmarshal([]byte(strings.TrimSuffix(strings.TrimPrefix(token.Access, "header."), ".signature")), &claims))
	return claims
}

func TestATokenIsForTheResourcesThatWereAskedFor(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		allowed, requested []string
		aud                any
		refused            string
	}{
		"nothing asked for is the issuer":    {allowed: []string{"https://a"}, aud: issuerURL},
		"one is a string":                    {allowed: []string{"https://a/x"}, requested: []string{"https://a/x"}, aud: "https://a/x"},
		"several are a list, as asked":       {allowed: []string{"https://a", "https://b"}, requested: []string{"https://b", "https://a"}, aud: []any{"https://b", "https://a"}},
		"a repeat counts once":               {allowed: []string{"https://a"}, requested: []string{"https://a", "https://a"}, aud: "https://a"},
		"a URN":                              {allowed: []string{"urn:example:api"}, requested: []string{"urn:example:api"}, aud: "urn:example:api"},
		"the issuer must be allowed by name": {requested: []string{issuerURL}, refused: issuerURL},
		"the issuer alone is as nothing":     {allowed: []string{issuerURL}, requested: []string{issuerURL, issuerURL}, aud: issuerURL},
		"the issuer beside another":          {allowed: []string{issuerURL, "https://a"}, requested: []string{"https://a", issuerURL}, refused: "no other resource"},
		"not allowed":                        {allowed: []string{"https://a"}, requested: []string{"https://b"}, refused: "'https://b'"},
		"one of two is not allowed":          {allowed: []string{"https://a"}, requested: []string{"https://a", "https://b"}, refused: "'https://b'"},
		"another spelling":                   {allowed: []string{"https://a"}, requested: []string{"https://A"}, refused: "'https://A'"},
		"what is no URI":                     {allowed: []string{"https://a"}, requested: []string{"https://a\n\x80"}, refused: "may not request"},
		"a slash more":                       {allowed: []string{"https://a"}, requested: []string{"https://a/"}, refused: "'https://a/'"},
		"too long to repeat":                 {requested: []string{"https://" + strings.Repeat("a", 500)}, refused: strings.Repeat("a", 120) + "...'"},
		"seventeen":                          {allowed: []string{"https://a"}, requested: strings.Fields(strings.Repeat("https://a ", 17)), refused: "At most 16"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			w.agent.AllowedResources = row.allowed
			token, err := w.issueFor(t, row.requested...)
			if row.refused != "" {
				refusal := requireKind(t, err, issue.InvalidTarget)
				require.Contains(t, refusal.Description, row.refused)
				require.Equal(t, "resource", refusal.Field)
				require.Zero(t, w.spent, "no token was charged")
				require.Equal(t, 1, w.requests, "the request was")
				require.Equal(t, []string{"invalid_target"}, w.outcomes)
				return
			}
			require.NoError(t, err)
			require.Equal(t, row.aud, claimsOf(t, token)["aud"])
			metadata := w.journal[0].Metadata
			if row.aud == issuerURL {
				require.NotContains(t, metadata, "resource")
				return
			}
			written, err := json.Marshal(metadata["resource"])
			require.NoError(t, err)
			one, err := json.Marshal(row.aud)
			require.NoError(t, err)
			require.Equal(t, strings.Trim(string(one), "[]"), strings.Trim(string(written), "[]"))
		})
	}
}

func TestNobodyIsRefusedAResourceForWhatIsRemembered(t *testing.T) {
	t.Parallel()
	w := newWorld()
	before := w.agent
	w.remembered = &before
	w.agent.AllowedResources = []string{"https://a"} // since a moment ago
	token, err := w.issueFor(t, "https://a")
	require.NoError(t, err)
	require.Equal(t, "https://a", claimsOf(t, token)["aud"])
}

func TestAnAudienceIsAStringWhereThereIsOne(t *testing.T) {
	t.Parallel()
	for want, audience := range map[string]issue.Audience{`"a"`: {"a"}, `["a","b"]`: {"a", "b"}} {
		written, err := json.Marshal(audience)
		require.NoError(t, err)
		require.Equal(t, want, string(written))
	}
}
