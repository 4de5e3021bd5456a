package httpapi_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/services/token/api"
	"github.com/sentryagent/agentidp/services/token/internal/assertion"
)

var document = sync.OnceValues(func() (*openapi3.T, error) { return openapi3.NewLoader().LoadFromData(api.Spec) })

var documentRoutes = sync.OnceValues(func() (routers.Router, error) {
	doc, err := document()
	if err != nil {
		return nil, err
	}
	return gorillamux.NewRouter(doc)
})

// requireSpec holds a response against the document: its status, headers and body must be described there. What is no
// route (404, 405) is not in the document.
func requireSpec(tb testing.TB, method, path string, response *httptest.ResponseRecorder) {
	tb.Helper()
	routes, err := documentRoutes()
	require.NoError(tb, err)
	request := httptest.NewRequestWithContext(tb.Context(), method, path, http.NoBody)
	route, params, err := routes.FindRoute(request)
	if err != nil {
		require.Contains(tb, []int{http.StatusNotFound, http.StatusMethodNotAllowed}, response.Code, "%s %s", method, path)
		return
	}
	input := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: request, PathParams: params, Route: route},
		Status:                 response.Code,
		Header:                 response.Header(),
		Body:                   io.NopCloser(bytes.NewReader(response.Body.Bytes())),
		Options:                &openapi3filter.Options{IncludeResponseStatus: true},
	}
	require.NoError(tb, openapi3filter.ValidateResponse(tb.Context(), input), "%s %s: %s", method, path, response.Body)
}

func TestTheDocumentNamesTheLongestAssertion(t *testing.T) {
	t.Parallel()
	doc, err := document()
	require.NoError(t, err)
	longest := doc.Components.Schemas["Assertion"].Value.MaxLength
	require.NotNil(t, longest)
	require.Equal(t, uint64(assertion.MaxBytes), *longest)
}

func TestTheDocumentAndItsExamplesAreValid(t *testing.T) {
	t.Parallel()
	doc, err := document()
	require.NoError(t, err)
	require.NoError(t, doc.Validate(t.Context(), openapi3.EnableExamplesValidation()))
	require.Equal(t, "3.0.3", doc.OpenAPI)
}

func TestEveryRouteIsInTheDocumentAndTheOtherWayRound(t *testing.T) {
	t.Parallel()
	doc, err := document()
	require.NoError(t, err)
	b := setup(t)
	served := map[string]bool{}
	internal, ok := b.server.InternalHandler().(*gin.Engine)
	require.True(t, ok)
	for _, route := range append(b.server.Public().Routes(), internal.Routes()...) {
		if route.Method != http.MethodHead {
			served[route.Method+" "+route.Path] = true
		}
	}
	described, ids := map[string]bool{}, map[string]bool{}
	for path, item := range doc.Paths.Map() {
		for method, operation := range item.Operations() {
			described[method+" "+path] = true
			require.NotEmpty(t, operation.OperationID, "%s %s", method, path)
			require.False(t, ids[operation.OperationID], "%s is there twice", operation.OperationID)
			ids[operation.OperationID] = true
		}
	}
	require.Equal(t, described, served)
}

func TestEveryErrorOfTheDocumentHasAnExample(t *testing.T) {
	t.Parallel()
	doc, err := document()
	require.NoError(t, err)
	for path, item := range doc.Paths.Map() {
		for method, operation := range item.Operations() {
			for status, response := range operation.Responses.Map() {
				if status < "400" {
					continue
				}
				content := response.Value.Content.Get("application/json")
				require.NotNil(t, content, "%s %s: %s", method, path, status)
				require.NotEmpty(t, content.Examples, "%s %s: %s", method, path, status)
			}
		}
	}
}
