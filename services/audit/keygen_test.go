package audit_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/note"

	"github.com/sentryagent/agentidp/services/audit"
)

func TestAKeyIsMadeForALogAndOnlyItsSecretHalfIsForScripts(t *testing.T) {
	t.Parallel()
	var secret, people bytes.Buffer
	require.NoError(t, audit.Keygen(&secret, &people, []string{"idp.example.com/audit"}))
	signer, err := note.NewSigner(strings.TrimSuffix(secret.String(), "\n"))
	require.NoError(t, err)
	require.Equal(t, "idp.example.com/audit", signer.Name())
	_, public, _ := strings.Cut(people.String(), ": ")
	verifier, err := note.NewVerifier(strings.TrimSpace(public))
	require.NoError(t, err)
	require.Equal(t, signer.KeyHash(), verifier.KeyHash())

	for _, args := range [][]string{{}, {"a", "b"}, {"no name"}} {
		require.Error(t, audit.Keygen(&secret, &people, args))
	}
}
