package authz

import (
	"testing"

	"github.com/open-policy-agent/opa/v1/tester"
	"github.com/stretchr/testify/require"
)

// TestRego runs policy/*_test.rego as `opa test` does.
func TestRego(t *testing.T) {
	t.Parallel()
	results, err := tester.Run(t.Context(), "policy")
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(results), 20, "the policy's tests were not found")
	for _, r := range results {
		t.Run(r.Name, func(t *testing.T) {
			require.NoError(t, r.Error)
			require.Truef(t, r.Pass(), "%s: %s", r.Location, r.Output)
		})
	}
}
