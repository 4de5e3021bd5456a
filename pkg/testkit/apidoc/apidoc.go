// Package apidoc holds a service against its OpenAPI document: each of its answers, the routes that it serves, and the
// document by itself, whose rules are the same for all services. Only tests import it. What a service answers stands in
// the document; known here is only the one path that a document cannot describe.
package apidoc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/httpx"
)

// version is the one of OpenAPI that strangers' tools read best.
const version = "3.0.3"

// ErrNotDescribed is the error of an answer to a request that the document has no operation for.
var ErrNotDescribed = errors.New("apidoc: no operation is described for the request")

// Document is the OpenAPI document of a service. It is safe for concurrent use.
type Document struct {
	source []byte
	doc    *openapi3.T
	routes routers.Router
}

// Parse reads a document. Its servers do not count: a service is asked where it listens in the test.
func Parse(source []byte) (*Document, error) {
	doc, err := openapi3.NewLoader().LoadFromData(source)
	if err != nil {
		return nil, fmt.Errorf("apidoc: %w", err)
	}
	doc.Servers = nil
	routes, err := gorillamux.NewRouter(doc)
	if err != nil {
		return nil, fmt.Errorf("apidoc: %w", err)
	}
	return &Document{source: source, doc: doc, routes: routes}, nil
}

// Lazy is a document that is read when it is first needed, once: it takes longer than all else that most tests do.
type Lazy struct{ parse func() (*Document, error) }

// Lazily makes one of the source of a document.
func Lazily(source []byte) Lazy {
	return Lazy{sync.OnceValues(func() (*Document, error) { return Parse(source) })}
}

// Require gives the document.
func (l Lazy) Require(tb testing.TB) *Document {
	tb.Helper()
	doc, err := l.parse()
	require.NoError(tb, err)
	return doc
}

// RequireDescribed holds what a handler has written against the document.
func (l Lazy) RequireDescribed(tb testing.TB, request *http.Request, answer *httptest.ResponseRecorder) {
	tb.Helper()
	require.NoError(tb, l.Require(tb).Recorded(request, answer))
}

// RequireServed holds the document against its rules, with errors of these schemas, and against the server.
func (l Lazy) RequireServed(tb testing.TB, server *httpx.Server, errorSchemas ...string) {
	tb.Helper()
	doc := l.Require(tb)
	require.NoError(tb, doc.Rules(tb.Context(), errorSchemas...))
	require.NoError(tb, doc.Served(tb.Context(), server))
}

// Schema is a schema of the document's components, nil if there is none of that name.
func (d *Document) Schema(name string) *openapi3.Schema {
	ref := d.doc.Components.Schemas[name]
	if ref == nil {
		return nil
	}
	return ref.Value
}

// Answer tells how an answer differs from what the document says of it: status, headers and body. ErrNotDescribed is for
// what no operation is for, which a service answers with 404 or 405.
func (d *Document) Answer(request *http.Request, status int, header http.Header, body []byte) error {
	described, err := asDescribed(request)
	if err != nil {
		return err
	}
	route, parameters, err := d.routes.FindRoute(described)
	if err != nil {
		return fmt.Errorf("%w: %s %s: %w", ErrNotDescribed, request.Method, request.URL.Path, err)
	}
	input := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: described, PathParams: parameters, Route: route},
		Status:                 status,
		Header:                 header,
		Options:                &openapi3filter.Options{IncludeResponseStatus: true, MultiError: true},
	}
	input.SetBodyBytes(body)
	if err := openapi3filter.ValidateResponse(request.Context(), input); err != nil {
		return fmt.Errorf("apidoc: %s %s: %w: %d %s", request.Method, request.URL, err, status, body)
	}
	return nil
}

// Recorded is Answer for what a handler has written. Where no operation is described, it has to be 404 or 405.
func (d *Document) Recorded(request *http.Request, answer *httptest.ResponseRecorder) error {
	err := d.Answer(request, answer.Code, answer.Header(), answer.Body.Bytes())
	if errors.Is(err, ErrNotDescribed) && (answer.Code == http.StatusNotFound || answer.Code == http.StatusMethodNotAllowed) {
		return nil
	}
	return err
}

// tile is a path whose last parameter has several segments.
var tile = regexp.MustCompile(`^(/api/v1/audit/tile/[^/]+/)(.+)$`)

// asDescribed is the request as a document can describe it: OpenAPI 3.0 knows no path parameter of several segments, so
// in the number of a tile the slashes are escaped.
func asDescribed(request *http.Request) (*http.Request, error) {
	path := tile.FindStringSubmatch(request.URL.EscapedPath())
	if path == nil {
		return request, nil
	}
	target, err := url.Parse(path[1] + strings.ReplaceAll(path[2], "/", "%2F"))
	if err != nil {
		return nil, fmt.Errorf("apidoc: %w", err)
	}
	copied := *request
	copied.URL = request.URL.ResolveReference(target)
	return &copied, nil
}

// Served tells which routes of the server are not in the document, and the other way round; and whether the server gives
// out the document as it is. HEAD needs no operation where GET has one (RFC 9110 §9.3.2).
func (d *Document) Served(ctx context.Context, server *httpx.Server) error {
	internal, ok := server.InternalHandler().(*gin.Engine)
	if !ok {
		return errors.New("apidoc: the server's internal side is no router that can be asked")
	}
	served := map[string]bool{}
	for _, route := range append(server.Public().Routes(), internal.Routes()...) {
		if route.Method != http.MethodHead {
			served[route.Method+" "+parameter.ReplaceAllString(route.Path, "{$1}")] = true
		}
	}
	var faults []error
	described := d.Operations()
	for _, name := range slices.Sorted(maps.Keys(served)) {
		if described[name] == nil {
			faults = append(faults, fmt.Errorf("%s is not in the document", name))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(described)) {
		if !served[name] {
			faults = append(faults, fmt.Errorf("%s is not served", name))
		}
	}
	answer := httptest.NewRecorder()
	internal.ServeHTTP(answer, httptest.NewRequestWithContext(ctx, http.MethodGet, "/openapi.yaml", http.NoBody))
	if !bytes.Equal(answer.Body.Bytes(), d.source) {
		faults = append(faults, errors.New("GET /openapi.yaml is not the document"))
	}
	return errors.Join(faults...)
}

// parameter is one of a route as gin writes it.
var parameter = regexp.MustCompile(`[:*](\w+)`)

// Rules tells where the document breaks a rule of OpenAPI or of this house: examples fit their schemas, every operation has
// an id of its own, a tag and a word on who may use it, and every error is of one of the schemas, with an example.
func (d *Document) Rules(ctx context.Context, errorSchemas ...string) error {
	var faults []error
	if err := d.doc.Validate(ctx, openapi3.EnableExamplesValidation()); err != nil {
		faults = append(faults, err)
	}
	if d.doc.OpenAPI != version {
		faults = append(faults, fmt.Errorf("the version is %q and not %s", d.doc.OpenAPI, version))
	}
	ids := map[string]string{}
	described := d.Operations()
	for _, name := range slices.Sorted(maps.Keys(described)) {
		operation := described[name]
		if other := ids[operation.OperationID]; other != "" {
			faults = append(faults, fmt.Errorf("%s has the operationId of %s", name, other))
		}
		ids[operation.OperationID] = name
		if operation.OperationID == "" || len(operation.Tags) == 0 || operation.Security == nil {
			faults = append(faults, fmt.Errorf("%s lacks operationId, tags or security", name))
		}
		for status, response := range operation.Responses.Map() {
			if status >= "400" && !isError(response.Value, errorSchemas) {
				faults = append(faults, fmt.Errorf("%s: %s is no error with an example", name, status))
			}
		}
	}
	return errors.Join(faults...)
}

func isError(response *openapi3.Response, schemas []string) bool {
	content := response.Content.Get("application/json")
	return content != nil && slices.Contains(schemas, strings.TrimPrefix(content.Schema.Ref, "#/components/schemas/")) &&
		(content.Example != nil || len(content.Examples) > 0)
}

// Operations are those of the document, by method and path as in "GET /healthz".
func (d *Document) Operations() map[string]*openapi3.Operation {
	all := map[string]*openapi3.Operation{}
	for path, item := range d.doc.Paths.Map() {
		for method, operation := range item.Operations() {
			all[method+" "+path] = operation
		}
	}
	return all
}
