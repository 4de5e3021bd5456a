package e2e

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

// fields are the names that a VALIDATION_ERROR lists.
func (a answer) fields(t *testing.T) []string {
	t.Helper()
	var body struct {
		Details struct {
			Errors []struct{ Field, Reason string }
		}
	}
	a.decode(t, &body)
	var names []string
	for _, problem := range body.Details.Errors {
		require.NotEmpty(t, problem.Reason, "%s", a.body)
		names = append(names, problem.Field)
	}
	return names
}

// hostile are strings that have broken somebody's software.
func hostile() []string {
	return []string{"", " ", "\u0000", "a\u0000b", "'; DROP TABLE registry.agents; --", "\" OR 1=1 --", "${jndi:ldap://x}", "../../etc/passwd",
		"<script>alert(1)</script>", "\ufeff", "\u202e", strings.Repeat("x", 5000), "%00", "\ufffd", "{{7*7}}", "null", "\r\nSet-Cookie: a=b"}
}

func TestEveryFieldOfARegistrationIsRefusedInEveryWrongWay(t *testing.T) {
	t.Parallel()
	in := install(t, "RATE_LIMIT_PER_MINUTE=0")
	operator := in.operator(t)
	many := make([]string, 65)
	for i := range many {
		many[i] = fmt.Sprintf("resume:read%c%c", 'a'+i/26, 'a'+i%26)
	}
	wrong := map[string][]any{
		"email":         {"nobody", "a@", "@b.example", "a b@example.com", "a@b@example.com", "Name <a@example.com>", strings.Repeat("a", 250) + "@example.com", 1, true, []string{"a@example.com"}},
		"agentType":     {"Screener", "robot", 1, []string{}},
		"version":       {"1", "1.2", "v1.2.3", "1.2.3.4", "01.2.3", "1.2.3-", "1.2.3+", 1.2},
		"capabilities":  {[]string{}, many, []string{"resume:read", "resume:read"}, []string{"resume"}, []string{"Resume:read"}, []string{"resume:*x"}, []string{"*:read"}, []string{"agents:read"}, []string{"tokens:mint"}, []string{"audit:*"}, []string{"r:" + strings.Repeat("a", 63)}, "resume:read", []any{1}, []any{nil}, map[string]any{}},
		"owner":         {strings.Repeat("x", 129), 7, []string{}},
		"deploymentEnv": {"prod", "Production", 1},
		"allowedScopes": {[]string{"everything"}, []string{"resume:read"}, "agents:read", []any{1}, []string{"agents:read", "agents:read"}},
		"status":        {"active"},
		"agentId":       {uuid.NewString()},
		"surprise":      {"x"},
		"Email":         {"a@example.com"},
	}
	for _, field := range []string{"email", "agentType", "version", "deploymentEnv"} {
		for _, value := range hostile() {
			wrong[field] = append(wrong[field], value)
		}
	}
	wrong["owner"] = append(wrong["owner"], "", " ", "\u0000", "a\u0000b", strings.Repeat("x", 5000))
	for field, values := range wrong {
		for i, value := range values {
			got := in.call(t, http.MethodPost, "/api/v1/agents", operator, agentBody("fine@example.com", map[string]any{field: value}))
			require.Equal(t, http.StatusBadRequest, got.status, "%s %d %q: %s", field, i, value, got.body)
			require.Equal(t, "VALIDATION_ERROR", got.code())
			require.True(t, slices.ContainsFunc(got.fields(t), func(name string) bool { return strings.HasPrefix(name, field) }),
				"%s %q must be named: %s", field, value, got.body)
		}
	}
	for _, field := range []string{"email", "agentType", "version", "capabilities", "owner", "deploymentEnv"} {
		got := in.call(t, http.MethodPost, "/api/v1/agents", operator, agentBody("fine@example.com", map[string]any{field: nil}))
		require.Equal(t, []string{field}, got.fields(t), "%s", got.body)
	}
	all := in.call(t, http.MethodPost, "/api/v1/agents", operator, `{}`)
	require.ElementsMatch(t, []string{"email", "agentType", "version", "capabilities", "owner", "deploymentEnv"}, all.fields(t))
	total := in.call(t, http.MethodGet, "/api/v1/agents", operator, nil).object(t)["total"]
	require.EqualValues(t, 1, total, "nothing but the operator may be stored")
}

func TestBodiesThatAreNotWhatTheySayAreRefused(t *testing.T) {
	t.Parallel()
	in := install(t, "RATE_LIMIT_PER_MINUTE=0")
	operator := in.operator(t)
	good := `{"email":"a@example.com","agentType":"screener","version":"1.0.0","capabilities":["resume:read"],"owner":"o","deploymentEnv":"staging"}`
	rows := map[string]struct {
		body        string
		contentType string
		status      int
		code        string
	}{
		"a megabyte":                  {`{"owner":"` + strings.Repeat("x", 1<<20) + `"}`, "application/json", 413, "PAYLOAD_TOO_LARGE"},
		"deep nesting":                {strings.Repeat(`{"a":`, 5000) + "1" + strings.Repeat("}", 5000), "application/json", 400, "VALIDATION_ERROR"},
		"deep arrays":                 {`{"capabilities":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + "}", "application/json", 400, "VALIDATION_ERROR"},
		"invalid UTF-8":               {"{\"owner\":\"\xff\xfe\"}", "application/json", 400, "VALIDATION_ERROR"},
		"a raw NUL":                   {"{\"owner\":\"a\x00b\"}", "application/json", 400, "VALIDATION_ERROR"},
		"an array":                    {`[]`, "application/json", 400, "VALIDATION_ERROR"},
		"null":                        {`null`, "application/json", 400, "VALIDATION_ERROR"},
		"a number":                    {`1`, "application/json", 400, "VALIDATION_ERROR"},
		"nothing":                     {``, "application/json", 400, "VALIDATION_ERROR"},
		"half":                        {good[:40], "application/json", 400, "VALIDATION_ERROR"},
		"trailing data":               {good + `{}`, "application/json", 400, "VALIDATION_ERROR"},
		"a field twice":               {`{"owner":"a",` + good[1:], "application/json", 400, "VALIDATION_ERROR"},
		"a comment":                   {`/* hello */` + good, "application/json", 400, "VALIDATION_ERROR"},
		"plain text":                  {good, "text/plain", 415, "UNSUPPORTED_MEDIA_TYPE"},
		"a form":                      {"a=b", "application/x-www-form-urlencoded", 415, "UNSUPPORTED_MEDIA_TYPE"},
		"no media type":               {good, "", 415, "UNSUPPORTED_MEDIA_TYPE"},
		"a media type that is broken": {good, ";;;", 415, "UNSUPPORTED_MEDIA_TYPE"},
	}
	for name, row := range rows {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			req := in.request(t, http.MethodPost, "/api/v1/agents", operator, row.body)
			req.Header.Del("Content-Type")
			if row.contentType != "" {
				req.Header.Set("Content-Type", row.contentType)
			}
			got := in.do(t, req)
			require.Equal(t, row.status, got.status, "%s", got.body)
			require.Equal(t, row.code, got.code())
		})
	}
	t.Run("json with a charset is json", func(t *testing.T) {
		t.Parallel()
		req := in.request(t, http.MethodPost, "/api/v1/agents", operator, good)
		req.Header.Set("Content-Type", "application/json; charset=utf-8")
		require.Equal(t, http.StatusCreated, in.do(t, req).status)
	})
}

func TestPathsQueriesAndMethodsThatAreWrongSayWhatIsWrong(t *testing.T) {
	t.Parallel()
	in := install(t, "RATE_LIMIT_PER_MINUTE=0")
	operator := in.operator(t)
	unknown := uuid.NewString()
	rows := []struct {
		method, path string
		status       int
		code         string
	}{
		{"GET", "/api/v1/agents/not-a-uuid", 400, "VALIDATION_ERROR"},
		{"GET", "/api/v1/agents/" + strings.ToUpper(in.clientID), 400, "VALIDATION_ERROR"},
		{"GET", "/api/v1/agents/%00", 400, "VALIDATION_ERROR"},
		{"GET", "/api/v1/agents/" + unknown, 404, "AGENT_NOT_FOUND"},
		{"DELETE", "/api/v1/agents/" + unknown, 404, "AGENT_NOT_FOUND"},
		{"GET", "/api/v1/agents/" + unknown + "/credentials", 404, "AGENT_NOT_FOUND"},
		{"GET", "/api/v1/agents/x/credentials", 400, "VALIDATION_ERROR"},
		{"DELETE", "/api/v1/agents/" + in.clientID + "/credentials/" + unknown, 404, "CREDENTIAL_NOT_FOUND"},
		{"DELETE", "/api/v1/agents/" + in.clientID + "/credentials/1", 400, "VALIDATION_ERROR"},
		{"GET", "/api/v1/audit/" + unknown, 404, "AUDIT_EVENT_NOT_FOUND"},
		{"GET", "/api/v1/audit/1", 400, "VALIDATION_ERROR"},
		{"GET", "/api/v1/agents/" + in.clientID + "?fields=email", 400, "VALIDATION_ERROR"},
		{"DELETE", "/api/v1/agents/" + in.clientID + "?dryRun=true", 400, "VALIDATION_ERROR"},
		{"DELETE", "/api/v1/agents/" + in.clientID + "/credentials/" + unknown + "?%zz", 400, "VALIDATION_ERROR"},
		{"GET", "/api/v1/audit/" + unknown + "?x=1", 400, "VALIDATION_ERROR"},
		{"GET", "/api/v1/audit/" + unknown + "/proof?x=1", 400, "VALIDATION_ERROR"},
		{"GET", "/.well-known/jwks.json?v=1", 200, ""},
		{"GET", "/api/v1/agents?page=0", 400, "VALIDATION_ERROR"},
		{"GET", "/api/v1/agents?page=-1", 400, "VALIDATION_ERROR"},
		{"GET", "/api/v1/agents?page=99999999999999999999999", 400, "VALIDATION_ERROR"},
		{"GET", "/api/v1/agents?page=1e3", 400, "VALIDATION_ERROR"},
		{"GET", "/api/v1/agents?page=100000000&limit=100", 200, ""},
		{"GET", "/api/v1/agents?limit=0", 400, "VALIDATION_ERROR"},
		{"GET", "/api/v1/agents?limit=101", 400, "VALIDATION_ERROR"},
		{"GET", "/api/v1/agents?limit=ten", 400, "VALIDATION_ERROR"},
		{"GET", "/api/v1/agents?cursor=nonsense", 400, "VALIDATION_ERROR"},
		{"GET", "/api/v1/agents?status=sleeping", 400, "VALIDATION_ERROR"},
		{"GET", "/api/v1/agents?agentType=%27%20OR%201=1", 400, "VALIDATION_ERROR"},
		{"GET", "/api/v1/agents?owner=%00", 400, "VALIDATION_ERROR"},
		{"GET", "/api/v1/agents?owner=%ff", 400, "VALIDATION_ERROR"},
		{"GET", "/api/v1/agents?owner=%27%20OR%201=1%20--", 200, ""},
		{"GET", "/api/v1/audit?agentId=1", 400, "VALIDATION_ERROR"},
		{"GET", "/api/v1/audit?action=nothing", 400, "VALIDATION_ERROR"},
		{"GET", "/api/v1/audit?outcome=maybe", 400, "VALIDATION_ERROR"},
		{"GET", "/api/v1/audit?fromDate=yesterday", 400, "VALIDATION_ERROR"},
		{"GET", "/api/v1/audit?fromDate=2001-01-01T00:00:00Z", 400, "RETENTION_WINDOW_EXCEEDED"},
		{"GET", "/api/v1/audit?fromDate=2126-01-02T00:00:00Z&toDate=2126-01-01T00:00:00Z", 400, "VALIDATION_ERROR"},
		{"GET", "/api/v1/agents/" + in.clientID + "/credentials?status=lost", 400, "VALIDATION_ERROR"},
		{"PUT", "/api/v1/agents", 405, "METHOD_NOT_ALLOWED"},
		{"POST", "/api/v1/audit", 405, "METHOD_NOT_ALLOWED"},
		{"DELETE", "/api/v1/audit/" + unknown, 405, "METHOD_NOT_ALLOWED"},
		{"GET", "/api/v1/token/introspect", 405, "METHOD_NOT_ALLOWED"},
		{"GET", "/api/v1/token/unknown", 404, "NOT_FOUND"},
		{"GET", "/", 404, "NOT_FOUND"},
		{"GET", "/api/v2/agents", 404, "NOT_FOUND"},
		{"GET", "/metrics", 404, "NOT_FOUND"},
		{"GET", "/readyz", 404, "NOT_FOUND"},
		{"GET", "/api/v1/agents/", 404, "NOT_FOUND"},
	}
	for _, row := range rows {
		t.Run(row.method+" "+row.path, func(t *testing.T) {
			t.Parallel()
			got := in.call(t, row.method, row.path, operator, nil)
			require.Equal(t, row.status, got.status, "%s", got.body)
			require.Equal(t, row.code, got.code())
			if row.status == http.StatusMethodNotAllowed {
				require.NotEmpty(t, got.header.Get("Allow"))
			}
		})
	}
}

func TestPatchesThatAreWrongChangeNothing(t *testing.T) {
	t.Parallel()
	in := install(t, "RATE_LIMIT_PER_MINUTE=0")
	operator := in.operator(t)
	agent := in.register(t, operator, "stable@example.com", nil)
	before := in.call(t, http.MethodGet, "/api/v1/agents/"+agent, operator, nil)
	for _, body := range []string{`{}`, `{"email":"other@example.com"}`, `{"agentId":"x"}`, `{"createdAt":"2020-01-01T00:00:00Z"}`, `{"registeredBy":null}`,
		`{"status":"decommissioned"}`, `{"status":null}`, `{"owner":"new","surprise":1}`, `{"owner":"new","version":"x"}`, `{"capabilities":[]}`} {
		got := in.call(t, http.MethodPatch, "/api/v1/agents/"+agent, operator, body)
		require.Equal(t, http.StatusBadRequest, got.status, "%s: %s", body, got.body)
		require.Equal(t, "VALIDATION_ERROR", got.code())
	}
	everywhere := in.call(t, http.MethodPatch, "/api/v1/agents/not-a-uuid?dryRun=true", operator, `{"version":"x","surprise":1}`)
	require.Equal(t, http.StatusBadRequest, everywhere.status)
	require.ElementsMatch(t, []string{"agentId", "dryRun", "version", "surprise"}, everywhere.fields(t), "path, query and body in one answer")
	stale := in.request(t, http.MethodPatch, "/api/v1/agents/"+agent, operator, `{"owner":"new"}`)
	stale.Header.Set("If-Match", `"999"`)
	require.Equal(t, "PRECONDITION_FAILED", in.do(t, stale).code())
	require.Equal(t, before.body, in.call(t, http.MethodGet, "/api/v1/agents/"+agent, operator, nil).body)

	right := in.request(t, http.MethodPatch, "/api/v1/agents/"+agent, operator, `{"owner":"new"}`)
	right.Header.Set("If-Match", before.header.Get("ETag"))
	changed := in.do(t, right)
	require.Equal(t, http.StatusOK, changed.status, "%s", changed.body)
	require.NotEqual(t, before.header.Get("ETag"), changed.header.Get("ETag"))
}

func TestTokenRequestsThatAreWrongGetTheErrorOfTheRFC(t *testing.T) {
	t.Parallel()
	in := install(t, "RATE_LIMIT_PER_MINUTE=0", "AUTH_FAILURES_PER_MINUTE=0")
	operator := in.operator(t)
	agent := in.register(t, operator, "typo@example.com", nil)
	_, secret := in.credential(t, operator, agent)
	whole := "grant_type=client_credentials&client_id=" + agent + "&client_secret=" + secret
	const formType = "application/x-www-form-urlencoded"
	rows := map[string]struct {
		body, contentType, authorization, query string
		status                                  int
		oauthError                              string
	}{
		"no grant":                        {body: "client_id=" + agent + "&client_secret=" + secret, status: 400, oauthError: "invalid_request"},
		"another grant":                   {body: "grant_type=password&username=a&password=b", status: 400, oauthError: "unsupported_grant_type"},
		"a parameter twice":               {body: whole + "&client_id=" + agent, status: 400, oauthError: "invalid_request"},
		"the scope twice":                 {body: whole + "&scope=agents:read&scope=agents:read", status: 400, oauthError: "invalid_request"},
		"JSON":                            {body: `{"grant_type":"client_credentials"}`, contentType: "application/json", status: 400, oauthError: "invalid_request"},
		"a body that does not parse":      {body: whole + "&%zz=1", status: 400, oauthError: "invalid_request"},
		"credentials in the query":        {body: "grant_type=client_credentials", query: "?client_id=" + agent + "&client_secret=" + secret, status: 400, oauthError: "invalid_request"},
		"both methods at once":            {body: whole, authorization: "Basic eDp5", status: 400, oauthError: "invalid_request"},
		"no client at all":                {body: "grant_type=client_credentials", status: 400, oauthError: "invalid_request"},
		"no secret":                       {body: "grant_type=client_credentials&client_id=" + agent, status: 400, oauthError: "invalid_request"},
		"a wrong secret":                  {body: whole + "0", status: 401, oauthError: "invalid_client"},
		"an unknown client":               {body: "grant_type=client_credentials&client_id=" + uuid.NewString() + "&client_secret=" + secret, status: 401, oauthError: "invalid_client"},
		"a client that is no UUID":        {body: "grant_type=client_credentials&client_id=%27%20OR%201%3D1&client_secret=x", status: 401, oauthError: "invalid_client"},
		"a NUL in the secret":             {body: "grant_type=client_credentials&client_id=" + agent + "&client_secret=a%00b", status: 401, oauthError: "invalid_client"},
		"invalid UTF-8 in the client":     {body: "grant_type=client_credentials&client_id=%ff%fe&client_secret=x", status: 400, oauthError: "invalid_request"},
		"a scope nobody knows":            {body: whole + "&scope=everything", status: 400, oauthError: "invalid_scope"},
		"a scope of others":               {body: whole + "&scope=agents:admin", status: 400, oauthError: "invalid_scope"},
		"a scope with bad characters":     {body: whole + "&scope=%22agents:read%22", status: 400, oauthError: "invalid_scope"},
		"Basic that is not base64":        {body: "grant_type=client_credentials", authorization: "Basic !!!", status: 401, oauthError: "invalid_client"},
		"Basic without a colon":           {body: "grant_type=client_credentials", authorization: "Basic eHl6", status: 401, oauthError: "invalid_client"},
		"Basic with a broken form escape": {body: "grant_type=client_credentials", authorization: "Basic JXp6OnE=", status: 401, oauthError: "invalid_client"},
	}
	for name, row := range rows {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			contentType := row.contentType
			if contentType == "" {
				contentType = formType
			}
			req, err := http.NewRequest(http.MethodPost, in.url+"/api/v1/token"+row.query, strings.NewReader(row.body))
			require.NoError(t, err)
			req.Header.Set("Content-Type", contentType)
			if row.authorization != "" {
				req.Header.Set("Authorization", row.authorization)
			}
			got := in.do(t, req)
			require.Equal(t, row.status, got.status, "%s", got.body)
			require.Equal(t, row.oauthError, got.oauthError(), "%s", got.body)
			require.NotEmpty(t, got.object(t)["error_description"])
			require.Equal(t, "no-store", got.header.Get("Cache-Control"))
			if row.status == http.StatusUnauthorized && row.authorization != "" {
				require.Equal(t, `Basic realm="agentidp"`, got.header.Get("WWW-Authenticate"))
			}
		})
	}
	unknown := in.form(t, "/api/v1/token", url.Values{"grant_type": {"client_credentials"}, "client_id": {uuid.NewString()}, "client_secret": {secret}})
	wrong := in.form(t, "/api/v1/token", url.Values{"grant_type": {"client_credentials"}, "client_id": {agent}, "client_secret": {"sk_live_x"}})
	require.Equal(t, unknown.body, wrong.body, "an unknown client and a wrong secret must look alike")
}
