package apidoc_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/httpx"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/pkg/testkit/apidoc"
)

const source = `openapi: 3.0.3
info: {title: things, version: 1.0.0}
servers: [{url: 'https://idp.example.com/base'}]
paths:
  /things/{thingId}:
    get:
      operationId: getThing
      tags: [things]
      security: []
      parameters:
        - {name: thingId, in: path, required: true, schema: {type: string}}
      responses:
        '200':
          description: It.
          headers:
            ETag: {required: true, schema: {type: string}}
          content:
            application/json:
              schema: {$ref: '#/components/schemas/Thing'}
              example: {size: 1}
        '404':
          description: There is none.
          content:
            application/json:
              schema: {$ref: '#/components/schemas/Error'}
              example: {code: NOT_FOUND}
  /api/v1/audit/tile/{level}/{index}:
    get:
      operationId: getTile
      tags: [things]
      security: []
      parameters:
        - {name: level, in: path, required: true, schema: {type: string}}
        - {name: index, in: path, required: true, schema: {type: string}}
      responses:
        '200':
          description: It.
          content: {text/plain: {schema: {type: string}}}
` + operations + `components:
  schemas:
    Thing:
      type: object
      required: [size]
      properties: {size: {type: integer, maximum: 5}}
    Error:
      type: object
      required: [code]
      properties: {code: {type: string}}
`

// operations are the routes that every server has.
const operations = `
  /healthz: {get: {operationId: healthz, tags: [health], security: [], responses: {'200': {description: It is.}}}}
  /readyz: {get: {operationId: readyz, tags: [health], security: [], responses: {'200': {description: It is.}}}}
  /metrics: {get: {operationId: metrics, tags: [health], security: [], responses: {'200': {description: They.}}}}
  /openapi.yaml: {get: {operationId: openapi, tags: [health], security: [], responses: {'200': {description: It.}}}}
`

func parse(t *testing.T, source string) *apidoc.Document {
	t.Helper()
	doc, err := apidoc.Parse([]byte(source))
	require.NoError(t, err)
	return doc
}

func TestAnAnswerIsHeldAgainstTheDocument(t *testing.T) {
	t.Parallel()
	doc := parse(t, source)
	json, tagged := "application/json", "v1"
	for name, given := range map[string]struct {
		method, path, contentType, etag string
		status                          int
		body, fault                     string
	}{
		"as described":               {"GET", "/things/a", json, tagged, 200, `{"size":5}`, ""},
		"an error as described":      {"GET", "/things/a", json, "", 404, `{"code":"NOT_FOUND"}`, ""},
		"another body":               {"GET", "/things/a", json, tagged, 200, `{"size":6}`, "at most 5"},
		"another status":             {"GET", "/things/a", json, tagged, 201, `{"size":5}`, "status is not supported"},
		"a header is missing":        {"GET", "/things/a", json, "", 200, `{"size":5}`, `"ETag" missing`},
		"another form":               {"GET", "/things/a", "text/plain", tagged, 200, `5`, "Content-Type"},
		"a path of several segments": {"GET", "/api/v1/audit/tile/0/x001/234.p/5", "text/plain", "", 200, "hash", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			header := http.Header{"Content-Type": {given.contentType}}
			if given.etag != "" {
				header.Set("ETag", given.etag)
			}
			request := httptest.NewRequestWithContext(t.Context(), given.method, given.path, http.NoBody)
			err := doc.Answer(request, given.status, header, []byte(given.body))
			if given.fault == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, given.fault)
			require.NotErrorIs(t, err, apidoc.ErrNotDescribed)
		})
	}
}

func TestWhatIsNotDescribedHasToBeRefused(t *testing.T) {
	t.Parallel()
	doc := parse(t, source)
	for status, recorded := range map[int]error{
		http.StatusNotFound: nil, http.StatusMethodNotAllowed: nil, http.StatusOK: apidoc.ErrNotDescribed, http.StatusBadRequest: apidoc.ErrNotDescribed,
	} {
		for _, request := range []*http.Request{
			httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/other", http.NoBody),
			httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/things/a", http.NoBody),
		} {
			answer := httptest.NewRecorder()
			answer.WriteHeader(status)
			require.ErrorIs(t, doc.Answer(request, status, answer.Header(), nil), apidoc.ErrNotDescribed)
			require.ErrorIs(t, doc.Recorded(request, answer), recorded)
		}
	}
	answer := httptest.NewRecorder()
	answer.WriteHeader(http.StatusNotFound)
	described := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/things/a", http.NoBody)
	require.Error(t, doc.Recorded(described, answer), "a 404 that is described has the body that is described")
}

func TestARuleThatIsBrokenIsNamed(t *testing.T) {
	t.Parallel()
	require.NoError(t, parse(t, source).Rules(t.Context(), "Error"))
	for fault, change := range map[string][2]string{
		"at most 5":                       {"example: {size: 1}", "example: {size: 7}"},
		"the version is \"3.0.1\"":        {"openapi: 3.0.3", "openapi: 3.0.1"},
		"has the operationId of GET":      {"operationId: getTile", "operationId: getThing"},
		"GET /things/{thingId} lacks":     {"      security: []\n      parameters:\n        - {name: thingId", "      parameters:\n        - {name: thingId"},
		"GET /healthz lacks":              {"tags: [health]", "tags: []"},
		"404 is no error with an example": {"              example: {code: NOT_FOUND}\n", ""},
		"{thingId}: 404 is no error":      {"schemas/Error'}", "schemas/Thing'}"},
	} {
		require.Contains(t, source, change[0])
		doc := parse(t, strings.Replace(source, change[0], change[1], 1))
		require.ErrorContains(t, doc.Rules(t.Context(), "Error"), fault)
	}
}

func TestRoutesAndDocumentAreHeldAgainstEachOther(t *testing.T) {
	t.Parallel()
	serve := func(document string, paths ...string) *httpx.Server {
		server, err := httpx.NewServer(httpx.Config{InternalAPIToken: "of-the-test"},
			httpx.Options{Service: "things", Telemetry: telemetry.Discard("things"), OpenAPI: []byte(document)})
		require.NoError(t, err)
		for _, path := range paths {
			server.Public().GET(path, func(*gin.Context) {})
		}
		return server
	}
	doc := parse(t, source)
	thing, tile := "/things/:thingId", "/api/v1/audit/tile/:level/*index"
	require.NoError(t, doc.Served(t.Context(), serve(source, thing, tile)))
	require.ErrorContains(t, doc.Served(t.Context(), serve(source, thing)), "GET /api/v1/audit/tile/{level}/{index} is not served")
	require.ErrorContains(t, doc.Served(t.Context(), serve(source, thing, tile, "/more")), "GET /more is not in the document")
	require.ErrorContains(t, doc.Served(t.Context(), serve(source+"\n", thing, tile)), "GET /openapi.yaml is not the document")
}

func TestWhatIsNoDocumentIsRefused(t *testing.T) {
	t.Parallel()
	_, err := apidoc.Parse([]byte("openapi: ["))
	require.Error(t, err)
	require.Nil(t, parse(t, source).Schema("Nothing"))
	require.NotNil(t, apidoc.Lazily([]byte(source)).Require(t).Schema("Thing"))
}
