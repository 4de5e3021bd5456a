package httpapi_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/testkit/apidoc"
	"github.com/sentryagent/agentidp/services/token/api"
	"github.com/sentryagent/agentidp/services/token/internal/assertion"
)

var document = apidoc.Lazily(api.Spec)

func TestTheServiceServesItsDocument(t *testing.T) {
	t.Parallel()
	document.RequireServed(t, setup(t).server, "Error", "TokenError", "EndpointError")
}

func TestTheDocumentNamesTheLongestAssertion(t *testing.T) {
	t.Parallel()
	longest := document.Require(t).Schema("Assertion").MaxLength
	require.NotNil(t, longest)
	require.Equal(t, uint64(assertion.MaxBytes), *longest)
}
