package issue_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/authn"
	"github.com/sentryagent/agentidp/services/token/internal/issue"
)

// many are that many distinct texts of that length, which begin alike.
func many(number, length int, beginning string) []string {
	all := make([]string, number)
	for i := range all {
		all[i] = fmt.Sprintf("%s%02d", beginning, i)
		all[i] += strings.Repeat("x", length-len(all[i]))
	}
	return all
}

func (w *world) askForEverything(t *testing.T) (issue.Token, error) {
	t.Helper()
	request := w.request(strings.Join(w.agent.Capabilities, " "))
	request.Resources = w.agent.AllowedResources
	token, _, err := w.issuer().Issue(t.Context(), request)
	return token, err
}

func TestATokenWithAllThatAnAgentMayHaveIsNotTooLong(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.agent.Capabilities = many(64, 64, "resource:a")
	w.agent.AllowedResources = many(16, 256, "https://a.example/?"+strings.Repeat("&", 200))
	w.agent.Owner = strings.Repeat("o", 128)
	token, err := w.askForEverything(t)
	require.NoError(t, err)
	require.Contains(t, token.Access, "/?&&&&", "a character that JSON allows is one octet")
	aud := claimsOf(t, token)["aud"]
	require.Len(t, aud, 16)
	require.Contains(t, aud, w.agent.AllowedResources[7])
	// In base64url, and with the header and the signature of RSA with 8192 bits.
	require.Less(t, len(token.Access)*4/3+200+1366, authn.MaxTokenBytes)
}

func TestATokenThatNoVerifierWouldLookAtIsNotIssued(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.agent.Capabilities = many(256, 64, "resource:a")
	_, err := w.askForEverything(t)
	require.Contains(t, requireKind(t, err, issue.InvalidRequest).Description, "fewer scopes or resources")
	require.Empty(t, w.journal, "nobody is told of a token that there is not")
	require.Equal(t, 1, w.refunds)
	require.Equal(t, []string{"invalid_request"}, w.outcomes)
}
