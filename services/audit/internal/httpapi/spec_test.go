package httpapi_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/services/audit/api"
)

// spec is the OpenAPI document, read once.
var spec = sync.OnceValues(func() (*openapi3.T, error) {
	doc, err := openapi3.NewLoader().LoadFromData(api.Spec)
	if err != nil {
		return nil, err
	}
	return doc, nil
})

var specRouter = sync.OnceValues(func() (routers.Router, error) {
	doc, err := spec()
	if err != nil {
		return nil, err
	}
	return gorillamux.NewRouter(doc)
})

// requireSpec holds an answer against the document: its status, headers and body
// are what the document says. Methods a route does not have are not in it.
func requireSpec(t *testing.T, method, target string, response *httptest.ResponseRecorder) {
	t.Helper()
	if response.Code == http.StatusMethodNotAllowed {
		return
	}
	router, err := specRouter()
	require.NoError(t, err)
	// OpenAPI 3.0 knows no parameter of several segments: for it, the slashes in the
	// place of a tile are escaped.
	if tile := tileTarget.FindStringSubmatch(target); tile != nil {
		target = tile[1] + strings.ReplaceAll(tile[2], "/", "%2F")
	}
	request := httptest.NewRequestWithContext(t.Context(), method, target, http.NoBody)
	route, params, err := router.FindRoute(request)
	require.NoError(t, err)
	err = openapi3filter.ValidateResponse(t.Context(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: request, PathParams: params, Route: route},
		Status:                 response.Code,
		Header:                 response.Header(),
		Body:                   nopCloser{bytes.NewReader(response.Body.Bytes())},
		Options:                &openapi3filter.Options{IncludeResponseStatus: true},
	})
	require.NoError(t, err)
}

var tileTarget = regexp.MustCompile(`^(/api/v1/audit/tile/[^/]+/)(.+)$`)

type nopCloser struct{ *bytes.Reader }

func (nopCloser) Close() error { return nil }

func TestTheDocumentAndItsExamplesAreValid(t *testing.T) {
	t.Parallel()
	doc, err := spec()
	require.NoError(t, err)
	require.NoError(t, doc.Validate(t.Context(), openapi3.EnableExamplesValidation()))
	require.True(t, strings.HasPrefix(doc.OpenAPI, "3.0."))
}

func TestEveryRouteIsInTheDocumentAndTheOtherWayRound(t *testing.T) {
	t.Parallel()
	doc, err := spec()
	require.NoError(t, err)
	var documented []string
	for path, item := range doc.Paths.Map() {
		for method, operation := range item.Operations() {
			require.NotEmpty(t, operation.OperationID, path)
			documented = append(documented, method+" "+path)
		}
	}
	b := setup(t)
	routes := []string{}
	parameter := regexp.MustCompile(`[:*](\w+)`)
	for _, route := range b.server.Public().Routes() {
		if route.Method == http.MethodHead { // implied by GET (RFC 9110 section 9.3.2)
			continue
		}
		routes = append(routes, route.Method+" "+parameter.ReplaceAllString(route.Path, "{$1}"))
	}
	// The internal listener has no routes of this service's own, only those that
	// every service has.
	for _, path := range []string{"/readyz", "/metrics", "/openapi.yaml"} {
		recorder := httptest.NewRecorder()
		request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, http.NoBody)
		b.server.InternalHandler().ServeHTTP(recorder, request)
		require.Equal(t, http.StatusOK, recorder.Code, path)
		routes = append(routes, "GET "+path)
	}
	require.ElementsMatch(t, routes, documented)
}

func TestTheServiceServesItsDocument(t *testing.T) {
	t.Parallel()
	b := setup(t)
	recorder := httptest.NewRecorder()
	b.server.InternalHandler().ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/openapi.yaml", http.NoBody))
	require.Equal(t, api.Spec, recorder.Body.Bytes())
}
