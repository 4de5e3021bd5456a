package secret

import (
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

func TestAMatchIsThatOfOneVersionOfOneCredential(t *testing.T) {
	t.Parallel()
	k := newKept(nil)
	at := Place{AgentID: uuid.New(), CredentialID: uuid.New()}
	k.known.add(at.sealed(1), "one")
	require.True(t, k.known.has(at.sealed(1), "one"))
	require.False(t, k.known.has(at.sealed(2), "one"))
	require.False(t, k.known.has(at.sealed(1), "two"))
	require.False(t, k.known.has(Place{AgentID: at.AgentID, CredentialID: uuid.New()}.sealed(1), "one"))
}
