package httpapi_test

import (
	"testing"

	"github.com/sentryagent/agentidp/pkg/testkit/apidoc"
	"github.com/sentryagent/agentidp/services/audit/api"
)

var document = apidoc.Lazily(api.Spec)

func TestTheServiceServesItsDocument(t *testing.T) {
	t.Parallel()
	document.RequireServed(t, setup(t).server, "Error")
}
