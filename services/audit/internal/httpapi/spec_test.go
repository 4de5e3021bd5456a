package httpapi_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/testkit/apidoc"
	"github.com/sentryagent/agentidp/services/audit/api"
)

var document = apidoc.Lazily(api.Spec)

// requireDescribed holds an answer against the document.
func requireDescribed(tb testing.TB, request *http.Request, answer *httptest.ResponseRecorder) {
	tb.Helper()
	doc, err := document()
	require.NoError(tb, err)
	require.NoError(tb, doc.Recorded(request, answer))
}

func TestTheDocumentKeepsItsRules(t *testing.T) {
	t.Parallel()
	doc, err := document()
	require.NoError(t, err)
	require.NoError(t, doc.Rules(t.Context()))
}

func TestTheServiceServesItsDocument(t *testing.T) {
	t.Parallel()
	doc, err := document()
	require.NoError(t, err)
	require.NoError(t, doc.Served(t.Context(), setup(t).server))
}
