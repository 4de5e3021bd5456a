package httpapi_test

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/services/token/internal/issue"
)

const (
	tokenPath = "/api/v1/token"
	goodForm  = "grant_type=client_credentials&client_id=019aa9c0-7d52-7c3e-9b0a-5f0d3c1e8a41&client_secret=sk_live_s"
	grantOnly = "grant_type=client_credentials"

	byAssertion = "client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion=a.b.c"
)

func basic(id, secret string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(id+":"+secret))
}

func TestATokenResponse(t *testing.T) {
	t.Parallel()
	b := setup(t)
	got := b.post(t, tokenPath, goodForm+"&scope=agents%3Aread+resume:read&unknown=ignored&empty=")
	require.Equal(t, http.StatusOK, got.Code)
	require.JSONEq(t, `{"access_token":"a.b.c","token_type":"Bearer","expires_in":3600,"scope":"agents:read"}`, got.Body.String())
	require.Equal(t, "no-store", got.Header().Get("Cache-Control"))
	require.Equal(t, "no-cache", got.Header().Get("Pragma"))
	require.Equal(t, "99", got.Header().Get("X-RateLimit-Remaining"))
	require.Equal(t, "application/json", got.Header().Get("Content-Type"))
	require.Equal(t, "agents:read resume:read", b.issued[0].Scope)
	require.Equal(t, agentID.String(), b.issued[0].Credentials.ClientID)
	require.Equal(t, "sk_live_s", b.issued[0].Credentials.Secret.Reveal())
	require.NotEmpty(t, b.issued[0].Origin.IPAddress)
	require.NotEmpty(t, b.issued[0].Origin.RequestID)
}

func TestAFormMayHold64Parameters(t *testing.T) {
	t.Parallel()
	got := setup(t).post(t, tokenPath, goodForm+strings.Repeat("&", 61))
	require.Equal(t, http.StatusOK, got.Code, got.Body)
}

func TestResourceIsTheOneParameterThatMayBeRepeated(t *testing.T) {
	t.Parallel()
	for body, want := range map[string][]string{
		"":                      nil,
		"&resource=":            nil,
		"&resource=https://a":   {"https://a"},
		"&resource=&resource=b": {"b"},
		"&resource=b&resource=a&resource=b&re%73ource=https%3A%2F%2Fc%3Fx": {"b", "a", "b", "https://c?x"},
	} {
		b := setup(t)
		got := b.post(t, tokenPath, goodForm+body)
		require.Equal(t, http.StatusOK, got.Code, got.Body)
		require.Equal(t, want, b.issued[0].Resources)
	}
	b := setup(t)
	b.issueErr = issue.RefuseField(issue.InvalidTarget, "resource", "No.")
	got := b.post(t, tokenPath, goodForm)
	require.Equal(t, http.StatusBadRequest, got.Code)
	require.JSONEq(t, `{"error":"invalid_target","error_description":"No."}`, got.Body.String())
}

func TestClientSecretBasicIsFormDecoded(t *testing.T) {
	t.Parallel()
	for header, want := range map[string]issue.Credentials{
		basic("id", "secret"):                         {ClientID: "id", Secret: "secret"},
		basic("a%3Ab", "c%2Bd+e%3Af"):                 {ClientID: "a:b", Secret: "c+d e:f"},
		basic("id", "with:colon"):                     {ClientID: "id", Secret: "with:colon"},
		strings.Replace(basic("i", "s"), "B", "b", 1): {ClientID: "i", Secret: "s"},
	} {
		b := setup(t)
		got := b.post(t, tokenPath, grantOnly, "Authorization", header)
		require.Equal(t, http.StatusOK, got.Code, got.Body)
		require.Equal(t, want, b.issued[0].Credentials)
	}
	b := setup(t)
	require.Equal(t, http.StatusOK, b.post(t, tokenPath, grantOnly+"&client_id=id", "Authorization", basic("id", "s")).Code, "the same id again does no harm")
	got := b.post(t, tokenPath, grantOnly+"&client_id=&client_secret=&client_secret=&scope=&scope=a", "Authorization", basic("id", "s"))
	require.Equal(t, http.StatusOK, got.Code, "a parameter without a value is not there (RFC 6749 §3.2): %s", got.Body)
	require.Equal(t, "a", b.issued[len(b.issued)-1].Scope)
}

func TestAClientAssertionIsReadFromTheForm(t *testing.T) {
	t.Parallel()
	for body, id := range map[string]string{
		byAssertion:                                "",
		byAssertion + "&client_id=x":               "x",
		byAssertion + "&client_id=&client_secret=": "",
	} {
		b := setup(t)
		got := b.post(t, tokenPath, grantOnly+"&"+body)
		require.Equal(t, http.StatusOK, got.Code, got.Body)
		require.Equal(t, issue.Credentials{ClientID: id, Assertion: "a.b.c"}, b.issued[0].Credentials)
	}
}

func TestAnAuthorizationThatCannotBeReadIsAnAttemptThatFails(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct{ header, id string }{
		"no base64":              {header: "Basic !!!"},
		"no colon":               {header: "Basic " + base64.StdEncoding.EncodeToString([]byte("abc")), id: "abc"},
		"no id":                  {header: basic("", "b")},
		"no secret":              {header: basic("a", ""), id: "a"},
		"a broken escape":        {header: basic("a", "%zz"), id: "a"},
		"a broken escape in id":  {header: basic("%zz", "b")},
		"nothing behind Basic":   {header: "Basic"},
		"another scheme":         {header: "Digest x"},
		"another scheme of both": {header: strings.Replace(basic("a", "b"), "Basic", "Digest", 1)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			got := b.post(t, tokenPath, grantOnly, "Authorization", row.header)
			require.Equal(t, http.StatusUnauthorized, got.Code, got.Body)
			require.Equal(t, "invalid_client", got.field(t, "error"))
			require.Equal(t, `Basic realm="agentidp"`, got.Header().Get("WWW-Authenticate"))
			require.Len(t, b.issued, 1, "it is counted, recorded and as slow as any")
			require.Equal(t, issue.Credentials{ClientID: row.id}, b.issued[0].Credentials)
		})
	}
}

func TestMalformedTokenRequestsAreRefusedAsTheRFCSays(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		target, body string
		headers      []string
		status       int
		oauth        string
	}{
		"no grant type":                    {body: "client_id=a&client_secret=b", oauth: "invalid_request"},
		"an empty grant type":              {body: "grant_type=&client_id=a&client_secret=b", oauth: "invalid_request"},
		"an empty body":                    {oauth: "invalid_request"},
		"another grant":                    {body: "grant_type=password&client_id=a&client_secret=b", oauth: "unsupported_grant_type"},
		"no client":                        {body: grantOnly, oauth: "invalid_request"},
		"no secret":                        {body: grantOnly + "&client_id=a", oauth: "invalid_request"},
		"no id":                            {body: grantOnly + "&client_secret=a", oauth: "invalid_request"},
		"a repeated parameter":             {body: goodForm + "&scope=a&scope=a", oauth: "invalid_request"},
		"a repeated secret":                {body: goodForm + "&client_secret=x", oauth: "invalid_request"},
		"a repetition in another spelling": {body: goodForm + "&scope=a&%73cope=b", oauth: "invalid_request"},
		"a repeated unknown parameter":     {body: goodForm + "&x=1&x=2", oauth: "invalid_request"},
		"a broken escape":                  {body: goodForm + "&scope=%zz", oauth: "invalid_request"},
		"an escape cut short":              {body: goodForm + "&scope=%2", oauth: "invalid_request"},
		"a broken escape in a name":        {body: goodForm + "&%=1", oauth: "invalid_request"},
		"no UTF-8":                         {body: goodForm + "&scope=%ff%fe", oauth: "invalid_request"},
		"65 parameters":                    {body: goodForm + strings.Repeat("&", 62), oauth: "invalid_request"},
		"JSON":                             {body: `{"grant_type":"client_credentials"}`, headers: []string{"Content-Type", "application/json"}, oauth: "invalid_request"},
		"no content type":                  {body: goodForm, headers: []string{"Content-Type", ""}, oauth: "invalid_request"},
		"two content types":                {body: goodForm, headers: []string{"Content-Type", mediaForm, "content-type", mediaForm}, oauth: "invalid_request"},
		"another charset":                  {body: goodForm, headers: []string{"Content-Type", mediaForm + "; charset=utf-16"}, oauth: "invalid_request"},
		"a compressed body":                {body: goodForm, headers: []string{"Content-Encoding", "gzip"}, oauth: "invalid_request"},
		"a form in parts":                  {body: goodForm, headers: []string{"Content-Type", "multipart/form-data; boundary=x"}, oauth: "invalid_request"},
		"a secret in the query":            {target: "?client_secret=sk_live_x", body: goodForm, oauth: "invalid_request"},
		"a resource in the query":          {target: "?resource=https://api", body: goodForm, oauth: "invalid_request"},
		"an assertion in the query":        {target: "?client_assertion=x", body: goodForm, oauth: "invalid_request"},
		"an id in the query":               {target: "?client_id=x", body: goodForm, oauth: "invalid_request"},
		"all in the query":                 {target: "?" + goodForm, oauth: "invalid_request"},
		"a broken query":                   {target: "?a=%zz", body: goodForm, oauth: "invalid_request"},
		"a query with semicolons":          {target: "?a=1;client_secret=x", body: goodForm, oauth: "invalid_request"},
		"both ways to authenticate":        {body: goodForm, headers: []string{"Authorization", basic("a", "b")}, oauth: "invalid_request"},
		"bearer and secret":                {body: goodForm, headers: []string{"Authorization", "Bearer x"}, oauth: "invalid_request"},
		"assertion and secret":             {body: goodForm + "&" + byAssertion, oauth: "invalid_request"},
		"assertion and Basic":              {body: grantOnly + "&" + byAssertion, headers: []string{"Authorization", basic("a", "b")}, oauth: "invalid_request"},
		"assertion and bearer":             {body: grantOnly + "&" + byAssertion, headers: []string{"Authorization", "Bearer x"}, oauth: "invalid_request"},
		"a type of assertion and Basic":    {body: grantOnly + "&client_assertion_type=x", headers: []string{"Authorization", basic("a", "b")}, oauth: "invalid_request"},
		"an assertion without its type":    {body: grantOnly + "&client_assertion=a.b.c", oauth: "invalid_request"},
		"the type without an assertion":    {body: grantOnly + "&client_assertion_type=urn:ietf:params:oauth:client-assertion-type:jwt-bearer", oauth: "invalid_request"},
		"two assertions":                   {body: grantOnly + "&" + byAssertion + "&client_assertion=a", oauth: "invalid_request"},
		"another type of assertion":        {body: grantOnly + "&client_assertion=a&client_assertion_type=urn:ietf:params:oauth:client-assertion-type:saml2-bearer", status: 401, oauth: "invalid_client"},
		"Basic of another client":          {body: grantOnly + "&client_id=other", headers: []string{"Authorization", basic("a", "b")}, oauth: "invalid_request"},
		"two Authorization headers":        {body: grantOnly, headers: []string{"Authorization", basic("a", "b"), "Authorization", basic("a", "b")}, oauth: "invalid_request"},
		"a body that is too large":         {body: goodForm + "&x=" + strings.Repeat("x", 1<<20), status: 413, oauth: "invalid_request"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			got := b.post(t, tokenPath+row.target, row.body, row.headers...)
			if row.status == 0 {
				row.status = http.StatusBadRequest
			}
			require.Equal(t, row.status, got.Code, got.Body)
			require.Equal(t, row.oauth, got.field(t, "error"))
			require.Equal(t, "100", got.Header().Get("X-RateLimit-Remaining"), "an untouched window")
			require.Equal(t, "no-store", got.Header().Get("Cache-Control"))
			if row.status == http.StatusUnauthorized && row.headers != nil {
				require.Equal(t, `Basic realm="agentidp"`, got.Header().Get("WWW-Authenticate"))
			}
			require.NotContains(t, got.Body.String(), "sk_live_")
			require.Empty(t, b.issued)
			require.Len(t, b.refused, 1, "it is counted")
		})
	}
}

func TestRefusalsOfTheDomainAreWrittenAsTheRFCSays(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		err       error
		status    int
		body      string
		retry     string
		challenge string
	}{
		"scope":     {err: issue.RefuseField(issue.InvalidScope, "scope", "No \"such\" scope\\é."), status: 400, body: `{"error":"invalid_scope","error_description":"No 'such' scope??."}`},
		"client":    {err: issue.Refuse(issue.InvalidClient, "No."), status: 401, body: `{"error":"invalid_client","error_description":"No."}`, challenge: `Basic realm="agentidp"`},
		"suspended": {err: issue.Refuse(issue.UnauthorizedClient, "No."), status: 403, body: `{"error":"unauthorized_client","error_description":"No."}`},
		"rate": {
			err:    &issue.Refusal{Kind: issue.TooManyRequests, Description: "Wait.", RetryAfter: 1500 * time.Millisecond},
			status: 429, retry: "2",
			body: `{"error":"temporarily_unavailable","error_description":"Wait.","code":"RATE_LIMIT_EXCEEDED","message":"Wait."}`,
		},
		"outage": {
			err:    &issue.Refusal{Kind: issue.Unavailable, Description: "Later."},
			status: 503, retry: "1", body: `{"error":"temporarily_unavailable","error_description":"Later."}`,
		},
		"outage of another package": {err: errAway, status: 503, retry: "1", body: `{"error":"temporarily_unavailable","error_description":"The service is temporarily unavailable."}`},
		"fault": {
			err: apperr.Internal(errAway), status: 500,
			body: `{"error":"server_error","error_description":"An internal error occurred.","code":"INTERNAL_SERVER_ERROR","message":"An internal error occurred."}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.issueErr = row.err
			got := b.post(t, tokenPath, grantOnly, "Authorization", basic("a", "b"))
			require.Equal(t, row.status, got.Code)
			require.JSONEq(t, row.body, got.Body.String())
			require.Equal(t, row.retry, got.Header().Get("Retry-After"))
			require.Equal(t, row.challenge, got.Header().Get("WWW-Authenticate"))
			require.Equal(t, "99", got.Header().Get("X-RateLimit-Remaining"))
		})
	}
	b := setup(t)
	b.issueErr = issue.Refuse(issue.InvalidClient, "No.")
	require.Empty(t, b.post(t, tokenPath, goodForm).Header().Get("WWW-Authenticate"), "Basic was not used")
}

func TestNoErrorRepeatsASecretOrToken(t *testing.T) {
	t.Parallel()
	for _, misplaced := range []string{"sk_live_hunter2", "eyJhbGciOiJub25lIn0.e30.hunter2"} {
		b := setup(t)
		b.issueErr = issue.RefuseField(issue.InvalidScope, "scope", "This client may not request the scope '"+misplaced+"'.")
		require.JSONEq(t, `{"error":"invalid_scope","error_description":"This client may not request the scope '[redacted]'."}`,
			b.post(t, tokenPath, goodForm).Body.String())
		twice := goodForm + strings.Repeat("&"+misplaced+"=x", 2)
		require.Equal(t, "The parameter [redacted] is repeated.", b.post(t, tokenPath, twice).field(t, "error_description"))
		got := b.post(t, introspectPath, twice)
		require.Equal(t, http.StatusBadRequest, got.Code)
		require.Contains(t, got.Body.String(), `"field":"[redacted]"`)
		require.NotContains(t, got.Body.String(), "hunter2")
	}
}

func TestOtherMethodsAreNotAllowed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, path := range []string{tokenPath, tokenPath + "/introspect", tokenPath + "/revoke"} {
		got := b.get(t, b.server.PublicHandler(), path+"?"+url.Values{"client_secret": {"x"}}.Encode())
		require.Equal(t, http.StatusMethodNotAllowed, got.Code)
		require.Equal(t, http.MethodPost, got.Header().Get("Allow"))
	}
}
