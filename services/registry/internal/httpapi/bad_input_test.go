package httpapi_test

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
)

// badValues are JSON values that a field must not have, by field.
func badValues() map[string][]string {
	wrongTypes := []string{`null`, `7`, `1e400`, `true`, `{}`, `{"a":{"b":[]}}`}
	text := append([]string{`[]`, `["x"]`, `""`, `" "`, `"a\u0000b"`, `"\ud800"`, "\"a\x01b\""}, wrongTypes...)
	lists := append([]string{
		`""`, `"a:b"`, `[null]`, `[7]`, `[true]`, `[["a:b"]]`, `[{}]`, `[""]`, `["a\u0000:b"]`, `["a:b","a:b"]`, `["A:B"]`,
	}, wrongTypes...)
	long := strings.Repeat("a", 300)
	return map[string][]string{
		"email": append([]string{
			`"nobody"`, `"@example.com"`, `"a@"`, `"a b@example.com"`, `"A <a@example.com>"`, `"ä@example.com"`,
			`"a@example.com\n"`, `"` + long + `@example.com"`, `"'; DROP TABLE agents; --"`,
		}, text...),
		"agentType": append([]string{`"robot"`, `"SCREENER"`, `"screener "`, `"' OR 1=1 --"`}, text...),
		"version": append([]string{
			`"1"`, `"1.0"`, `"v1.0.0"`, `"01.0.0"`, `"1.0.0-"`, `"1.0.0-01"`, `"1.0.0+"`, `"latest"`, `"1.0.0'--"`, `"1.0.0-` + long + `"`,
		}, text...),
		"capabilities": append([]string{
			`[]`, `["a"]`, `["a:"]`, `[":a"]`, `["a:b:c"]`, `["*:a"]`, `["a:b*"]`, `["1:a"]`, `["a :b"]`, `["agents:read"]`,
			`["tokens:*"]`, `["audit:read"]`, `["a:'; DROP TABLE agents; --"]`, `["a:` + long + `"]`,
			`["a:b"` + strings.Repeat(`,"a:b"`, 64) + `]`,
		}, lists...),
		"owner":         append([]string{`"` + long + `"`, `"a\nb"`, `"\u0085"`}, text...),
		"deploymentEnv": append([]string{`"prod"`, `"Production"`, `"' OR 1=1 --"`}, text...),
		"allowedScopes": append([]string{`["resume:read"]`, `["*"]`, `["agents:read agents:write"]`, `["agents:read","agents:read"]`}, lists...),
		"allowedResources": append([]string{
			`["https://api.example.com/#a"]`, `["/v1"]`, `["https://u:p@api.example.com/"]`, `["https://api.example.com/","https://api.example.com/"]`,
			`["urn:a:` + long + `"]`, `["https://api.example.com/\n"]`,
		}, slices.DeleteFunc(lists, func(value string) bool { return value == `["A:B"]` })...),
	}
}

func TestEachFieldOfARegistrationWrongInEachWay(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for field, values := range badValues() {
		t.Run(field, func(t *testing.T) {
			for _, value := range values {
				body := withRaw(registration(nil), field, value)
				got := b.call(t, operator, http.MethodPost, agentsPath, body)
				requireFault(t, got, field, value)
			}
		})
	}
	require.Equal(t, 0, b.count(t, "SELECT count(*) FROM registry.agents"))
	require.Equal(t, 0, b.count(t, "SELECT count(*) FROM registry.outbox"))
}

func TestEachFieldOfAChangeWrongInEachWay(t *testing.T) {
	t.Parallel()
	b := setup(t)
	path := agentsPath + "/" + b.register(t, operator, nil).id()
	values := badValues()
	delete(values, "email")
	values["status"] = []string{`"decommissioned"`, `"Active"`, `""`, `null`, `1`, `[]`, `{}`, `"active\u0000"`, `"' OR 1=1"`}
	for field, list := range values {
		t.Run(field, func(t *testing.T) {
			for _, value := range list {
				other := "owner"
				if field == other {
					other = "version"
				}
				body := `{"` + field + `":` + value + `,"` + other + `":"1.1.1"}`
				requireFault(t, b.call(t, operator, http.MethodPatch, path, body), field, value)
			}
		})
	}
	require.Equal(t, 1, b.count(t, "SELECT revision FROM registry.agents"))
}

// withRaw puts a raw JSON value into a body, in place of the field's own.
func withRaw(body, field, value string) string {
	start := strings.Index(body, `"`+field+`":`)
	if start < 0 {
		return strings.Replace(body, "{", `{"`+field+`":`+value+`,`, 1)
	}
	from := start + len(field) + 3
	end := strings.IndexByte(body[from:], ']') + 1
	if body[from] != '[' {
		end = strings.IndexByte(body[from+1:], '"') + 2
	}
	return body[:from] + value + body[from+end:]
}

// requireFault demands that the one field is at fault; what is no JSON at all is the body's.
func requireFault(t *testing.T, got answer, field, value string) {
	t.Helper()
	errs := got.requireError(apperr.ValidationError)["errors"].([]any)
	require.NotEmpty(t, errs, value)
	for _, item := range errs {
		name := item.(map[string]any)["field"].(string)
		if strings.Contains(value, "\x01") {
			require.Equal(t, "body", name, value)
			continue
		}
		root, _, _ := strings.Cut(strings.ReplaceAll(name, "[", "."), ".")
		require.Equal(t, field, root, "%s: %s", value, got.Body)
	}
}

func TestAllFailingFieldsAreNamedAtOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	all := []string{"email", "agentType", "version", "capabilities", "owner", "deploymentEnv"}
	b.call(t, operator, http.MethodPost, agentsPath, `{}`).requireFields(all...)
	reasons := b.call(t, operator, http.MethodPost, agentsPath,
		`{"email":5,"agentType":"x","version":null,"capabilities":"a:b","owner":"","deploymentEnv":["x"],"allowedScopes":["x"],"allowedResources":["x"],`+
			`"agentId":"x","status":"active","colour":"red","Owner":"x"}`, "Idempotency-Key", "with space").
		requireFields(append(all, "allowedScopes", "allowedResources", "agentId", "status", "colour", "Owner", "Idempotency-Key")...)
	require.Contains(t, reasons["email"], "string")
}

func TestImmutableFieldsAreNamedAsSuchAndNothingChanges(t *testing.T) {
	t.Parallel()
	b := setup(t)
	first := b.register(t, operator, nil)
	path := agentsPath + "/" + first.id()
	immutable := []string{"agentId", "email", "registeredBy", "createdAt", "updatedAt"}
	for _, field := range immutable {
		for _, value := range []string{`"x"`, `null`, `{}`, encode(first.json()[field])} {
			reasons := b.call(t, operator, http.MethodPatch, path, `{"version":"2.0.0","`+field+`":`+value+`}`).requireFields(field)
			require.Equal(t, "is immutable", reasons[field])
		}
	}
	body := encode(first.json())
	reasons := b.call(t, operator, http.MethodPatch, path, body).requireFields(immutable...)
	require.Equal(t, "is immutable", reasons["email"])

	b.call(t, operator, http.MethodPatch, path, `{"clientSecret":"x","version":"2.0.0"}`).requireFields("clientSecret")
	require.Equal(t, "must name at least one field to change",
		b.call(t, operator, http.MethodPatch, path, `{}`).requireFields("body")["body"])
	require.Equal(t, first.json(), b.call(t, operator, http.MethodGet, path, "").json())
}

func TestBodiesThatAreNone(t *testing.T) {
	t.Parallel()
	b := setup(t)
	path := agentsPath + "/" + b.register(t, operator, nil).id()
	valid, change := strings.TrimSpace(registration(nil)), `{"owner":"talent-team"}`
	tests := map[string]string{
		"only a space":            " ",
		"not JSON":                "agentType=screener",
		"cut off":                 valid[:len(valid)-1],
		"an array":                "[" + valid + "]",
		"a string":                `"agent"`,
		"null":                    "null",
		"a number":                "7",
		"trailing data":           valid + "x",
		"two objects":             valid + valid,
		"invalid UTF-8":           strings.Replace(valid, "talent", "tal\xffent", 1),
		"a byte order mark":       "\xef\xbb\xbf" + valid,
		"NUL":                     strings.Replace(valid, "talent", "tal\x00ent", 1),
		"a comment":               "/* */" + valid,
		"a trailing comma":        valid[:len(valid)-1] + ",}",
		"single quotes":           strings.ReplaceAll(valid, `"`, `'`),
		"very deep arrays":        strings.Repeat("[", 30_000),
		"a very deep known field": `{"capabilities":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + `}`,
		"very deep objects":       strings.Repeat(`{"a":`, 10_000) + "1" + strings.Repeat("}", 10_000),
	}
	for name, body := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b.call(t, operator, http.MethodPost, agentsPath, body).requireFields("body")
			b.call(t, operator, http.MethodPatch, path, strings.ReplaceAll(body, valid, change)).requireFields("body")
		})
	}
	b.call(t, operator, http.MethodPost, agentsPath, "").requireFields("body")
	b.call(t, operator, http.MethodPatch, path, "").requireFields("body")
	repeated := strings.Replace(valid, "{", `{"owner":"a",`, 1)
	b.call(t, operator, http.MethodPost, agentsPath, repeated).requireFields("owner")
}

func TestBodiesThatAreTooLargeOrOfAnotherType(t *testing.T) {
	t.Parallel()
	b := setup(t)
	path := agentsPath + "/" + b.register(t, operator, nil).id()
	padded := func(size int) string {
		body := registration(nil)
		return body + strings.Repeat(" ", size-len(body))
	}
	b.call(t, operator, http.MethodPost, agentsPath, padded(64<<10)).requireStatus(http.StatusCreated)
	b.call(t, operator, http.MethodPost, agentsPath, padded(64<<10+1)).requireError(apperr.PayloadTooLarge)
	b.call(t, operator, http.MethodPost, agentsPath, padded(1<<20)).requireError(apperr.PayloadTooLarge)
	b.call(t, operator, http.MethodPatch, path, padded(1<<20)).requireError(apperr.PayloadTooLarge)

	for _, media := range []string{
		"", "text/plain", "application/x-www-form-urlencoded", "application/xml", "application/merge-patch+json",
		"application/json; charset=latin1", "application/jsonx", "multipart/form-data; boundary=x", "*/*",
	} {
		b.call(t, operator, http.MethodPost, agentsPath, registration(nil), "Content-Type", media).
			requireError(apperr.UnsupportedMediaType)
		b.call(t, operator, http.MethodPatch, path, `{"version":"2.0.0"}`, "Content-Type", media).
			requireError(apperr.UnsupportedMediaType)
	}
	b.call(t, operator, http.MethodPost, agentsPath, registration(nil), "Content-Type", "Application/JSON; charset=UTF-8").
		requireStatus(http.StatusCreated)
}

func TestPathsThatNameNoAgent(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := uuid.NewString()
	for _, bad := range []string{
		"1", "not-a-uuid", strings.ToUpper(uuid.NewString()), "{" + id + "}", "urn:uuid:" + id, strings.ReplaceAll(id, "-", ""),
		id + "0", id + "%00", "%00", "%ff", "%27%20OR%201=1--", id + "%2F..", strings.Repeat("a", 2000), "%20" + id,
	} {
		path := agentsPath + "/" + bad
		for _, method := range []string{http.MethodGet, http.MethodDelete} {
			b.call(t, operator, method, path, "").requireFields("agentId")
			b.call(t, operator, method, path+"/keys", "").requireFields("agentId")
		}
		b.call(t, operator, http.MethodPatch, path+"?dry=1", `{"nonsense":true}`).requireFields("agentId", "nonsense", "dry")
		b.call(t, operator, http.MethodPut, path+"/keys?dry=1", "").requireFields("agentId", "body", "dry")
	}
}

func TestNoRouteTakesAParameterThatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	b := setup(t)
	path := agentsPath + "/" + b.register(t, operator, nil).id()
	before := b.call(t, operator, http.MethodGet, path, "")
	for _, route := range []struct{ method, path, body string }{
		{http.MethodPost, agentsPath, registration(nil)},
		{http.MethodGet, agentsPath, ""},
		{http.MethodGet, path, ""},
		{http.MethodPatch, path, `{"version":"9.9.9"}`},
		{http.MethodDelete, path, ""},
		{http.MethodGet, path + "/keys", ""},
		{http.MethodDelete, path + "/keys", ""},
	} {
		b.call(t, operator, route.method, route.path+"?dry=1", route.body).requireFields("dry")
		b.call(t, operator, route.method, route.path+"?%zz", route.body).requireFields("query")
	}
	b.call(t, operator, http.MethodPut, path+"/keys?dry=1", `{"jwks":1}`).requireFields("dry", "jwks")
	require.Equal(t, before.Body.String(), b.call(t, operator, http.MethodGet, path, "").Body.String(), "nothing was done")
}

func TestMethodsAndRoutesThatAreNone(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, method := range []string{http.MethodPut, http.MethodPatch, http.MethodDelete} {
		got := b.call(t, operator, method, agentsPath, "")
		got.requireError(apperr.MethodNotAllowed)
		require.ElementsMatch(t, []string{"GET", "POST"}, strings.Split(strings.ReplaceAll(got.Header().Get("Allow"), " ", ""), ","))
	}
	for _, method := range []string{http.MethodPut, http.MethodPost} {
		got := b.call(t, operator, method, agentsPath+"/"+uuid.NewString(), "")
		got.requireError(apperr.MethodNotAllowed)
		require.NotEmpty(t, got.Header().Get("Allow"))
	}
	for _, method := range []string{http.MethodPatch, http.MethodPost} {
		got := b.call(t, operator, method, agentsPath+"/"+uuid.NewString()+"/keys", "")
		got.requireError(apperr.MethodNotAllowed)
		require.ElementsMatch(t, []string{"GET", "PUT", "DELETE"},
			strings.Split(strings.ReplaceAll(got.Header().Get("Allow"), " ", ""), ","))
	}
	for _, path := range []string{"/", "/agents", "/api/v1", "/api/v1/agents/", "/api/v2/agents"} {
		b.call(t, operator, http.MethodGet, path, "").requireError(apperr.NotFound)
	}
}

func TestThePublicPortCarriesNothingInternal(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, path := range []string{bootstrapPath, "/internal/v1/agents?ids=" + uuid.NewString(), "/readyz", "/metrics", "/openapi.yaml"} {
		recorder := httptest.NewRecorder()
		request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, http.NoBody)
		request.Header.Set("Authorization", "Bearer "+internalToken)
		b.server.PublicHandler().ServeHTTP(recorder, request)
		answer{ResponseRecorder: recorder, t: t}.requireError(apperr.NotFound)
	}
}

func TestIdempotencyKeysThatAreNone(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, key := range []string{"", strings.Repeat("k", 256), "two words", "tab\there", "ünïcode", "nul\x00", "del\x7f"} {
		b.call(t, operator, http.MethodPost, agentsPath, registration(nil), "Idempotency-Key", key).requireFields("Idempotency-Key")
	}
	b.call(t, operator, http.MethodPost, agentsPath, registration(nil), "Idempotency-Key", "a", "Idempotency-Key", "b").
		requireFields("Idempotency-Key")
	require.Equal(t, 0, b.count(t, "SELECT count(*) FROM registry.agents"))
}

func TestSQLInEveryStringIsJustText(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const injection = `'); DROP TABLE registry.agents; --`
	got := b.register(t, operator, fields{
		"owner": injection, "email": "'or'1'='1@example.com", "version": "1.0.0-drop--table",
	})
	require.Equal(t, injection, got.json()["owner"])
	read := b.call(t, operator, http.MethodGet, got.Header().Get("Location"), "").requireStatus(http.StatusOK)
	require.Equal(t, got.json(), read.json())
	b.call(t, operator, http.MethodPost, agentsPath, registration(nil), "Idempotency-Key", "');DROP/**/TABLE/**/agents;--").
		requireStatus(http.StatusCreated)
	require.Equal(t, 2, b.count(t, "SELECT count(*) FROM registry.agents"))
}
