package issue_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Deciding, claims and event; the key, the budget and the journal are fakes that allocate next to nothing.
func TestATokenOfAKnownClientTakesFewAllocations(t *testing.T) {
	w := newWorld()
	w.agentKnown, w.secretKnown = true, true
	issuer, request := w.issuer(), w.request("")
	allocations := testing.AllocsPerRun(200, func() {
		_, _, err := issuer.Issue(t.Context(), request)
		require.NoError(t, err)
	})
	require.LessOrEqual(t, allocations, 40.0)
}
