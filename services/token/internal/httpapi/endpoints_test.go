package httpapi_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/authn"
	"github.com/sentryagent/agentidp/pkg/authz"
	"github.com/sentryagent/agentidp/pkg/revocation"
	"github.com/sentryagent/agentidp/services/token/internal/issue"
)

const (
	introspectPath = tokenPath + "/introspect"
	revokePath     = tokenPath + "/revoke"
	bearerHeader   = "Bearer a.b.c"
	byClient       = "client_id=019aa9c0-7d52-7c3e-9b0a-5f0d3c1e8a41&client_secret=s"
)

func TestIntrospectionSaysAllOrNothing(t *testing.T) {
	t.Parallel()
	b := setup(t)
	got := b.post(t, introspectPath, "token=x&token_type_hint=whatever", "Authorization", bearerHeader)
	require.Equal(t, http.StatusOK, got.Code)
	require.Equal(t, `{"active":false}`, got.Body.String())
	require.Equal(t, "no-store", got.Header().Get("Cache-Control"))
	require.Equal(t, []string{"x"}, b.asked)
	require.Equal(t, []string{"bearer"}, b.policyFor)

	id := agentID.String()
	claims := issue.Claims{
		Issuer: "https://idp.example.com", Audience: issue.Audience{"https://idp.example.com"}, Subject: id, ClientID: id, ID: id,
		IssuedAt: 1, NotBefore: 1, ExpiresAt: 2, Scope: "agents:read", AgentType: "screener", Owner: "o", DeploymentEnv: "production",
	}
	answer := func() issue.Introspection {
		written, err := json.Marshal(claims)
		require.NoError(t, err)
		return issue.Introspection{Active: true, Claims: written}
	}
	b.answer = answer()
	got = b.post(t, introspectPath, "token=x", "Authorization", bearerHeader)
	require.Equal(t, `{"active":true,`+strings.Trim(string(b.answer.Claims), "{}")+`,"token_type":"Bearer"}`, got.Body.String(), "each member once")
	require.Equal(t, "application/json", got.Header().Get("Content-Type"))
	var fields map[string]any
	require.NoError(t, json.Unmarshal(got.Body.Bytes(), &fields))
	var names []string
	for name := range fields {
		names = append(names, name)
	}
	require.ElementsMatch(t, []string{
		"active", "scope", "client_id", "sub", "aud", "iss", "iat", "nbf", "exp", "jti", "token_type",
		"agent_type", "owner", "deployment_env",
	}, names)
	require.Equal(t, "Bearer", fields["token_type"])
	require.Equal(t, "https://idp.example.com", fields["aud"])

	claims.Audience = issue.Audience{"https://api.example.com", "https://files.example.com"}
	b.answer = answer()
	got = b.post(t, introspectPath, "token=x", "Authorization", bearerHeader)
	require.Equal(t, []any{"https://api.example.com", "https://files.example.com"}, got.field(t, "aud"))
}

func TestOneLookUpIsAboutTheCallersTokenAndTheOneTheyAskAbout(t *testing.T) {
	t.Parallel()
	about := authn.Principal{AgentID: uuid.Must(uuid.NewV7()), TokenID: "asked about", IssuedAt: start}
	query := revocation.Query{TokenID: about.TokenID, AgentID: about.AgentID, IssuedAt: start}

	b := setup(t)
	b.asking = about
	require.Equal(t, http.StatusOK, b.post(t, introspectPath, "token=x", "Authorization", bearerHeader).Code)
	require.Equal(t, [][]revocation.Query{{query}}, b.entered)
	require.Equal(t, [][]revocation.Verdict{{revocation.Dead}}, b.verdicts)

	b = setup(t)
	b.asking = about
	require.Equal(t, http.StatusOK, b.post(t, introspectPath, "token=x&"+byClient).Code)
	require.Empty(t, b.entered)
	require.Equal(t, [][]revocation.Verdict{nil}, b.verdicts, "nobody has looked yet")

	b = setup(t)
	b.askingErr = apperr.New(apperr.Unauthorized, "No.")
	require.Equal(t, http.StatusOK, b.post(t, introspectPath, "token=x", "Authorization", bearerHeader).Code)
	require.Equal(t, [][]revocation.Query{nil}, b.entered)
}

func TestWhatIsWrongWithAQuestionIsToldToThoseLetIn(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		body string
		err  error
	}{
		"without a token": {"", nil},
		"keys away":       {"token=x", errAway},
	} {
		body := row.body
		b := setup(t)
		b.askingErr = row.err
		b.enterErr = apperr.New(apperr.RateLimitExceeded, "Too many.")
		require.Equal(t, http.StatusTooManyRequests, b.post(t, introspectPath, body, "Authorization", bearerHeader).Code, name)
		b.enterErr, b.policyErr = nil, apperr.New(apperr.Forbidden, "No.").With(map[string]any{"reason": "scope"})
		require.Equal(t, http.StatusForbidden, b.post(t, introspectPath, body, "Authorization", bearerHeader).Code, name)
		b.policyErr = nil
		require.NotEqual(t, http.StatusOK, b.post(t, introspectPath, body, "Authorization", bearerHeader).Code, name)
		require.Empty(t, b.verdicts, name)
	}
}

func TestClientsAuthenticateAtBothEndpoints(t *testing.T) {
	t.Parallel()
	for _, path := range []string{introspectPath, revokePath} {
		for name, send := range map[string]func(*bundle) reply{
			"form": func(b *bundle) reply { return b.post(t, path, "token=x&"+byClient) },
			"assertion": func(b *bundle) reply {
				return b.post(t, path, "token=x&"+byAssertion+"&client_id="+agentID.String())
			},
			"basic": func(b *bundle) reply {
				return b.post(t, path, "token=x", "Authorization", basic(agentID.String(), "s"))
			},
		} {
			b := setup(t)
			b.revocable, b.holder = true, authn.Principal{AgentID: agentID, Owner: "talent"}
			got := send(b)
			require.Equal(t, http.StatusOK, got.Code, name)
			require.Equal(t, "99", got.Header().Get("X-RateLimit-Remaining"))
			require.Equal(t, agentID.String(), b.credentials[0].ClientID)
			require.Equal(t, []string{agentID.String()}, b.policyFor)
			require.Equal(t, agentID, *b.origins[0].ActorID)
		}
	}
}

func TestRevocation(t *testing.T) {
	t.Parallel()
	owner := uuid.Must(uuid.NewV7())
	for name, row := range map[string]struct {
		prepare func(*bundle)
		status  int
		revoked int
		about   *authz.Resource
	}{
		"a live token":     {func(b *bundle) { b.revocable, b.holder = true, authn.Principal{AgentID: owner, Owner: "o"} }, 200, 1, &authz.Resource{AgentID: owner.String(), Owner: "o"}},
		"no token of ours": {func(*bundle) {}, 200, 0, nil},
		"another agent's": {func(b *bundle) {
			b.revocable, b.holder, b.policyErr = true, authn.Principal{AgentID: owner}, apperr.New(apperr.Forbidden, "No.")
		}, 403, 0, &authz.Resource{AgentID: owner.String()}},
		"not known":           {func(b *bundle) { b.holderErr = errAway }, 503, 0, nil},
		"not durable":         {func(b *bundle) { b.revocable, b.revokeErr = true, errAway }, 503, 1, &authz.Resource{AgentID: uuid.Nil.String()}},
		"denied all together": {func(b *bundle) { b.policyErr = apperr.New(apperr.Forbidden, "No.") }, 403, 0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			row.prepare(b)
			got := b.post(t, revokePath, "token=x", "Authorization", bearerHeader)
			require.Equal(t, row.status, got.Code, got.Body)
			require.Len(t, b.revoked, row.revoked)
			if row.status == http.StatusOK {
				require.JSONEq(t, "{}", got.Body.String(), "there are clients that take only JSON")
			}
			if len(b.resources) > 0 {
				require.Equal(t, row.about, b.resources[0])
			}
			require.NotContains(t, got.Body.String(), "db.internal")
		})
	}
}

func TestErrorsOfTheEndpointsSpeakBothLanguages(t *testing.T) {
	t.Parallel()
	denied := apperr.New(apperr.Forbidden, "No.").With(map[string]any{"reason": "scope tokens:read is required"}).
		WithChallenge(`Bearer realm="agentidp", error="insufficient_scope", scope="tokens:read"`)
	for name, row := range map[string]struct {
		prepare   func(*bundle)
		body      string
		headers   []string
		status    int
		oauth     string
		code      apperr.Code
		challenge string
	}{
		"no one at all":           {body: "token=x", status: 401, oauth: "invalid_token", code: apperr.Unauthorized, challenge: "Bearer"},
		"no one, no form":         {headers: []string{"Content-Type", ""}, status: 401, oauth: "invalid_token", code: apperr.Unauthorized, challenge: "Bearer"},
		"a bad token":             {prepare: func(b *bundle) { b.bearerErr = authn.Revoked() }, body: "token=x", headers: []string{"Authorization", bearerHeader}, status: 401, oauth: "invalid_token", code: apperr.Unauthorized, challenge: `error="invalid_token"`},
		"another scheme":          {body: "token=x", headers: []string{"Authorization", "Digest x"}, status: 401, oauth: "invalid_token", code: apperr.Unauthorized, challenge: "Bearer"},
		"denied":                  {prepare: func(b *bundle) { b.policyErr = denied }, body: "token=x", headers: []string{"Authorization", bearerHeader}, status: 403, oauth: "insufficient_scope", code: apperr.Forbidden, challenge: `scope="tokens:read"`},
		"no token":                {body: "a=b", headers: []string{"Authorization", bearerHeader}, status: 400, oauth: "invalid_request", code: apperr.ValidationError},
		"an empty token":          {body: "token=", headers: []string{"Authorization", bearerHeader}, status: 400, oauth: "invalid_request", code: apperr.ValidationError},
		"two tokens":              {body: "token=a&token=b", headers: []string{"Authorization", bearerHeader}, status: 400, oauth: "invalid_request", code: apperr.ValidationError},
		"a broken form by client": {body: "token=%zz&" + byClient, status: 400, oauth: "invalid_request", code: apperr.ValidationError},
		"no form":                 {body: "{}", headers: []string{"Authorization", bearerHeader, "Content-Type", "application/json"}, status: 415, oauth: "invalid_request", code: apperr.UnsupportedMediaType},
		"no form by Basic":        {body: "{}", headers: []string{"Authorization", basic("a", "b"), "Content-Type", "application/json"}, status: 415, oauth: "invalid_request", code: apperr.UnsupportedMediaType},
		"too large":               {body: "token=" + strings.Repeat("x", 1<<17), headers: []string{"Authorization", bearerHeader}, status: 413, oauth: "invalid_request", code: apperr.PayloadTooLarge},
		"two ways":                {body: "token=x&" + byClient, headers: []string{"Authorization", bearerHeader}, status: 400, oauth: "invalid_request", code: apperr.ValidationError},
		"Basic and form":          {body: "token=x&" + byClient, headers: []string{"Authorization", basic("a", "b")}, status: 400, oauth: "invalid_request", code: apperr.ValidationError},
		"bearer and assertion":    {body: "token=x&" + byAssertion, headers: []string{"Authorization", bearerHeader}, status: 400, oauth: "invalid_request", code: apperr.ValidationError},
		"assertion and form":      {body: "token=x&" + byAssertion + "&" + byClient, status: 400, oauth: "invalid_request", code: apperr.ValidationError},
		"half an assertion":       {body: "token=x&client_assertion=a", status: 400, oauth: "invalid_request", code: apperr.ValidationError},
		"a wrong assertion":       {prepare: func(b *bundle) { b.clientErr = issue.Refuse(issue.InvalidClient, "No.") }, body: "token=x&" + byAssertion, status: 401, oauth: "invalid_client", code: apperr.Unauthorized, challenge: "Bearer"},
		"two headers":             {body: "token=x", headers: []string{"Authorization", bearerHeader, "Authorization", bearerHeader}, status: 400, oauth: "invalid_request", code: apperr.ValidationError},
		"wrong secret, Basic":     {prepare: func(b *bundle) { b.clientErr = issue.Refuse(issue.InvalidClient, "No.") }, body: "token=x", headers: []string{"Authorization", basic("a", "b")}, status: 401, oauth: "invalid_client", code: apperr.Unauthorized, challenge: `Basic realm="agentidp"`},
		"wrong secret, form":      {prepare: func(b *bundle) { b.clientErr = issue.Refuse(issue.InvalidClient, "No.") }, body: "token=x&" + byClient, status: 401, oauth: "invalid_client", code: apperr.Unauthorized, challenge: "Bearer"},
		"malformed Basic":         {body: "token=x", headers: []string{"Authorization", "Basic !"}, status: 401, oauth: "invalid_client", code: apperr.Unauthorized, challenge: `Basic realm="agentidp"`},
		"denied to a client": {prepare: func(b *bundle) {
			b.policyErr = apperr.New(apperr.Forbidden, "No.").With(map[string]any{"reason": "another's"})
		}, body: "token=x&" + byClient, status: 403, oauth: "unauthorized_client", code: apperr.Forbidden},
		"a suspended client":      {prepare: func(b *bundle) { b.activeErr = issue.Refuse(issue.UnauthorizedClient, "No.") }, body: "token=x&" + byClient, status: 403, oauth: "unauthorized_client", code: apperr.Forbidden},
		"a client over its limit": {prepare: func(b *bundle) { b.window.Allowed, b.window.RetryAfter = false, time.Second }, body: "token=x&" + byClient, status: 429, oauth: "temporarily_unavailable", code: apperr.RateLimitExceeded},
		"an outage":               {prepare: func(b *bundle) { b.answerErr, b.holderErr = errAway, errAway }, body: "token=x", headers: []string{"Authorization", bearerHeader}, status: 503, oauth: "temporarily_unavailable", code: apperr.ServiceUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, path := range []string{introspectPath, revokePath} {
				b := setup(t)
				if row.prepare != nil {
					row.prepare(b)
				}
				got := b.post(t, path, row.body, row.headers...)
				require.Equal(t, row.status, got.Code, got.Body)
				require.Equal(t, row.oauth, got.field(t, "error"))
				require.Equal(t, string(row.code), got.field(t, "code"))
				require.Equal(t, got.field(t, "message"), got.field(t, "error_description"))
				require.Contains(t, got.Header().Get("WWW-Authenticate"), row.challenge)
				require.NotEmpty(t, got.Header().Get("X-RateLimit-Limit"))
				switch row.code {
				case apperr.ValidationError:
					require.Contains(t, got.field(t, "details"), "errors")
				case apperr.Forbidden:
					require.Contains(t, got.field(t, "details"), "reason")
				case apperr.RateLimitExceeded, apperr.ServiceUnavailable:
					require.NotEmpty(t, got.Header().Get("Retry-After"))
				default:
				}
				require.NotContains(t, got.Body.String(), "db.internal")
			}
		})
	}
	b := setup(t)
	require.Equal(t, http.StatusBadRequest, b.post(t, revokePath+"?token=x", "token=x", "Authorization", bearerHeader).Code, "tokens do not belong into the query")
}

func TestARefusalNamesTheParameterOrElseTheBody(t *testing.T) {
	t.Parallel()
	for body, field := range map[string]string{
		"a=b":     "token",
		"token=%": "body",
	} {
		got := setup(t).post(t, introspectPath, body, "Authorization", bearerHeader)
		require.Equal(t, map[string]any{"errors": []any{
			map[string]any{"field": field, "reason": got.field(t, "message")},
		}}, got.field(t, "details"), body)
	}
}

func TestMetadataListsWhatWorksAndNothingElse(t *testing.T) {
	t.Parallel()
	b := setup(t)
	got := b.get(t, b.server.PublicHandler(), "/.well-known/oauth-authorization-server")
	require.Equal(t, "public, max-age=300", got.Header().Get("Cache-Control"))
	const common = `
		"issuer":"https://idp.example.com",
		"authorization_endpoint":"https://idp.example.com/oauth2/authorize",
		"token_endpoint":"https://idp.example.com/api/v1/token",
		"jwks_uri":"https://idp.example.com/.well-known/jwks.json",
		"scopes_supported":["agents:read","agents:write","tokens:read","audit:read","agents:admin"],
		"response_types_supported":[],
		"grant_types_supported":["client_credentials"],
		"token_endpoint_auth_methods_supported":["client_secret_basic","client_secret_post","private_key_jwt"],
		"token_endpoint_auth_signing_alg_values_supported":["RS256","PS256","ES256","EdDSA","Ed25519"],
		"revocation_endpoint":"https://idp.example.com/api/v1/token/revoke",
		"revocation_endpoint_auth_methods_supported":["client_secret_basic","client_secret_post","private_key_jwt"],
		"revocation_endpoint_auth_signing_alg_values_supported":["RS256","PS256","ES256","EdDSA","Ed25519"],
		"introspection_endpoint":"https://idp.example.com/api/v1/token/introspect",
		"introspection_endpoint_auth_methods_supported":["Bearer","client_secret_basic","client_secret_post","private_key_jwt"],
		"introspection_endpoint_auth_signing_alg_values_supported":["RS256","PS256","ES256","EdDSA","Ed25519"]`
	require.JSONEq(t, "{"+common+"}", got.Body.String())
	openID := b.get(t, b.server.PublicHandler(), "/.well-known/openid-configuration")
	require.JSONEq(t, "{"+common+`,"subject_types_supported":["public"],"id_token_signing_alg_values_supported":["RS256","ES256","EdDSA"]}`, openID.Body.String())

	authorize := b.get(t, b.server.PublicHandler(), "/oauth2/authorize?response_type=code&client_id=x")
	require.Equal(t, http.StatusBadRequest, authorize.Code)
	require.Equal(t, "unsupported_response_type", authorize.field(t, "error"))
}

func TestTheEndpointsOfAnIssuerWithAPathAreBelowItToo(t *testing.T) {
	t.Parallel()
	b := setupIssuer(t, "https://idp.example.com/idp/v2")
	public := b.server.PublicHandler()
	for _, path := range []string{
		"/.well-known/oauth-authorization-server/idp/v2", "/.well-known/openid-configuration/idp/v2",
		"/idp/v2/.well-known/openid-configuration", "/.well-known/oauth-authorization-server",
	} {
		got := b.get(t, public, path)
		require.Equal(t, http.StatusOK, got.Code, path)
		require.Equal(t, "https://idp.example.com/idp/v2", got.field(t, "issuer"))
		require.Equal(t, "https://idp.example.com/idp/v2/api/v1/token", got.field(t, "token_endpoint"))
		require.Equal(t, "https://idp.example.com/idp/v2/.well-known/jwks.json", got.field(t, "jwks_uri"))
	}
	for _, prefix := range []string{"", "/idp/v2"} {
		require.Equal(t, http.StatusOK, b.post(t, prefix+tokenPath, goodForm).Code)
		require.Equal(t, http.StatusOK, b.post(t, prefix+introspectPath, "token=x", "Authorization", bearerHeader).Code)
		require.Equal(t, http.StatusOK, b.get(t, public, prefix+"/.well-known/jwks.json").Code)
	}
	require.Equal(t, []string{introspectPath, introspectPath}, b.policyPaths, "the policy knows one path for one thing")
	require.Equal(t, http.StatusNotFound, b.get(t, public, "/idp/.well-known/openid-configuration").Code)
}

func TestTheDocumentsCanBeAskedForWithHEAD(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, path := range []string{"/.well-known/oauth-authorization-server", "/.well-known/openid-configuration", "/.well-known/jwks.json"} {
		recorder := httptest.NewRecorder()
		b.server.PublicHandler().ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), http.MethodHead, path, http.NoBody))
		require.Equal(t, http.StatusOK, recorder.Code)
		require.Equal(t, "public, max-age=300", recorder.Header().Get("Cache-Control"))
	}
}

func TestJWKSIsCachedByItsTag(t *testing.T) {
	t.Parallel()
	b := setup(t)
	path := "/.well-known/jwks.json"
	got := b.get(t, b.server.PublicHandler(), path)
	require.Equal(t, http.StatusOK, got.Code)
	require.Equal(t, "public, max-age=300", got.Header().Get("Cache-Control"))
	require.Equal(t, `"tag"`, got.Header().Get("ETag"))
	for header, status := range map[string]int{
		`"tag"`: 304, `W/"tag"`: 304, `"other", "tag"`: 304, `*`: 304, `"other"`: 200, `tag`: 200,
	} {
		got := b.get(t, b.server.PublicHandler(), path, "If-None-Match", header)
		require.Equal(t, status, got.Code, header)
		require.Equal(t, `"tag"`, got.Header().Get("ETag"))
		require.Equal(t, status == 304, got.Body.Len() == 0)
		require.Equal(t, "public, max-age=300", got.Header().Get("Cache-Control"), "a cache that asked may keep it as long again")
	}
	head := httptest.NewRecorder()
	b.server.PublicHandler().ServeHTTP(head, httptest.NewRequestWithContext(t.Context(), http.MethodHead, path, http.NoBody))
	require.Equal(t, http.StatusOK, head.Code)
	require.Equal(t, got.Header().Get("ETag"), head.Header().Get("ETag"))
	require.Equal(t, got.Header().Get("Cache-Control"), head.Header().Get("Cache-Control"))

	b.jwksMaxAge = 7 * time.Second
	require.Equal(t, "public, max-age=7", b.get(t, b.server.PublicHandler(), path).Header().Get("Cache-Control"))
	b.jwksErr = errAway
	for _, got := range []reply{
		b.get(t, b.server.PublicHandler(), path),
		b.get(t, b.server.InternalHandler(), "/internal/v1/jwks", "Authorization", "Bearer "+internalToken),
	} {
		require.Equal(t, http.StatusServiceUnavailable, got.Code)
		require.Equal(t, "no-store", got.Header().Get("Cache-Control"))
	}
}

func TestTheOtherServicesGetNoJWKSThatMayLackAKey(t *testing.T) {
	t.Parallel()
	b := setup(t)
	internal := func() reply {
		return b.get(t, b.server.InternalHandler(), "/internal/v1/jwks", "Authorization", "Bearer "+internalToken)
	}
	require.Equal(t, http.StatusOK, internal().Code)
	b.storeErr = errAway
	require.Equal(t, http.StatusServiceUnavailable, internal().Code)
	require.Equal(t, http.StatusOK, b.get(t, b.server.PublicHandler(), "/.well-known/jwks.json").Code,
		"max-age tells verifiers how far to believe it")
}

func TestTheInternalAPI(t *testing.T) {
	t.Parallel()
	b := setup(t)
	send := func(body, bearer string) reply {
		request := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/internal/v1/revocations/check", strings.NewReader(body))
		request.Header.Set("Content-Type", "application/json")
		request.Header.Set("Authorization", "Bearer "+bearer)
		return b.serve(t, b.server.InternalHandler(), request)
	}
	good := `{"jti":"` + agentID.String() + `","sub":"` + agentID.String() + `","issuedAt":"2026-11-22T09:00:00.123Z"}`
	b.truth = true
	require.JSONEq(t, `{"revoked":true}`, send(good, internalToken).Body.String())
	require.Equal(t, start.Add(123*time.Millisecond), b.queries[0].IssuedAt.UTC())
	require.Equal(t, agentID, b.queries[0].AgentID)

	require.Equal(t, http.StatusUnauthorized, send(good, "wrong").Code)
	bad := send(`{"jti":"x"}`, internalToken)
	require.Equal(t, http.StatusBadRequest, bad.Code)
	require.Len(t, bad.field(t, "details").(map[string]any)["errors"], 3)
	b.truthErr = errAway
	require.Equal(t, http.StatusServiceUnavailable, send(good, internalToken).Code)
	require.Equal(t, http.StatusOK, b.get(t, b.server.InternalHandler(), "/internal/v1/jwks", "Authorization", "Bearer "+internalToken).Code)
}
