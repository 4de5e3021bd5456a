package e2e

import (
	"crypto"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/lestrrat-go/jwx/v3/jwk"
	"github.com/stretchr/testify/require"
)

const (
	tokenPath      = "/api/v1/token"
	introspectPath = tokenPath + "/introspect"
	revokePath     = tokenPath + "/revoke"
	mediaForm      = "application/x-www-form-urlencoded"
)

// world is an installation with an operator's token and an agent that has a secret and a token.
type world struct {
	*installation

	operator string
	agent    party
	token    string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	in := install(t, "RATE_LIMIT_PER_MINUTE=0", "AUTH_FAILURES_PER_MINUTE=0")
	operator := in.operator(t)
	agent := in.party(t, operator, "literal@example.com", map[string]any{"allowedScopes": []string{"agents:read"}})
	return &world{installation: in, operator: operator, agent: agent, token: in.token(t, agent.id, agent.secret, "agents:read")}
}

func TestEveryEndpointKeepsItsRFCsToTheLetter(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, hold := range map[string]func(*testing.T, *world){
		"RFC 6749: token requests":                        tokenRequests,
		"RFC 7662, RFC 7009: introspection, revocation":   introspectionAndRevocation,
		"RFC 7009 §2.1: a hint is a hint":                 wrongHint,
		"RFC 9068, RFC 7517, RFC 7638: tokens and keys":   tokensAndKeys,
		"RFC 6750: challenges of the protected resources": challenges,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hold(t, w)
		})
	}
}

// post sends a body as it is; headers are pairs of name and value.
func (in *installation) post(t *testing.T, path, body string, headers ...string) answer {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, in.url+path, strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", mediaForm)
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	return in.do(t, req)
}

// inBasic is an Authorization header with the text as it is, encoded or not.
func inBasic(text string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(text)) }

// percent encodes every character, also those that need no encoding.
func percent(text string) string {
	var encoded strings.Builder
	for _, octet := range []byte(text) {
		fmt.Fprintf(&encoded, "%%%02x", octet)
	}
	return encoded.String()
}

func tokenRequests(t *testing.T, w *world) {
	t.Helper()
	id, secret := w.agent.id, w.agent.secret
	byForm := "grant_type=client_credentials&client_id=" + id + "&client_secret=" + secret
	const grant = "grant_type=client_credentials"
	for name, row := range map[string]struct {
		body    string
		headers []string
		scope   string // of a 200
		status  int    // of an error
		err     string
	}{
		"§2.3.1: inside of Basic any character may be encoded":          {body: grant, headers: []string{"Authorization", inBasic(percent(id) + ":" + percent(secret))}, scope: "agents:read"},
		"§2.3.1: inside of Basic a plus is a space":                     {body: grant, headers: []string{"Authorization", inBasic(id + ":" + secret + "+")}, status: 401, err: "invalid_client"},
		"§2.3.1: an encoded colon belongs to the id":                    {body: grant, headers: []string{"Authorization", inBasic(id + "%3A" + secret)}, status: 401, err: "invalid_client"},
		"§2.3.1: a second colon belongs to the secret":                  {body: grant, headers: []string{"Authorization", inBasic(id + ":" + secret + ":")}, status: 401, err: "invalid_client"},
		"RFC 7617 §2: the scheme is written in any case":                {body: grant, headers: []string{"Authorization", strings.Replace(inBasic(id+":"+secret), "Basic", "bAsIc", 1)}, scope: "agents:read"},
		"RFC 9110 §11.4: more than one space after the scheme":          {body: grant, headers: []string{"Authorization", strings.Replace(inBasic(id+":"+secret), " ", "   ", 1)}, scope: "agents:read"},
		"§3.2.1: the client may repeat its id beside Basic":             {body: grant + "&client_id=" + id, headers: []string{"Authorization", inBasic(id + ":" + secret)}, scope: "agents:read"},
		"§2.3: the client must not use two methods":                     {body: byForm, headers: []string{"Authorization", inBasic(id + ":" + secret)}, status: 400, err: "invalid_request"},
		"§2.3: nor be another one beside Basic":                         {body: grant + "&client_id=" + uuid.NewString(), headers: []string{"Authorization", inBasic(id + ":" + secret)}, status: 400, err: "invalid_request"},
		"§3.2: an unknown parameter is ignored":                         {body: byForm + "&audience=x&%F0%9F%A4%96=robot&constructor=1", scope: "agents:read"},
		"§3.2: a parameter without a value is not there":                {body: byForm + "&scope=", scope: "agents:read"},
		"§3.2: nor does it repeat another":                              {body: "client_id=&client_secret&scope=&" + byForm + "&scope=resume:read&scope=", scope: "resume:read"},
		"§3.2: nor is it a second method beside Basic":                  {body: grant + "&client_id=&client_secret=", headers: []string{"Authorization", inBasic(id + ":" + secret)}, scope: "agents:read"},
		"§3.2: a grant type without a value is none":                    {body: "grant_type=&client_id=" + id + "&client_secret=" + secret, status: 400, err: "invalid_request"},
		"§3.2: a repetition in another spelling is one":                 {body: byForm + "&cl%69ent_id=" + id, status: 400, err: "invalid_request"},
		"§3.2: parameters in any order":                                 {body: "client_secret=" + secret + "&client_id=" + id + "&scope=resume%3Aread&" + grant, scope: "resume:read"},
		"appendix B: the form says that it is UTF-8":                    {body: byForm, headers: []string{"Content-Type", mediaForm + ";charset=\"UTF-8\""}, scope: "agents:read"},
		"appendix B: the media type is written in any case":             {body: byForm, headers: []string{"Content-Type", "Application/X-WWW-Form-URLEncoded"}, scope: "agents:read"},
		"appendix B: another character set is no form of ours":          {body: byForm, headers: []string{"Content-Type", mediaForm + "; charset=ISO-8859-1"}, status: 400, err: "invalid_request"},
		"§3.3: scopes keep their order, and lose their repeats":         {body: byForm + "&scope=resume:read+agents:read+resume:read", scope: "resume:read agents:read"},
		"§3.3: scopes are told apart by case":                           {body: byForm + "&scope=Agents:read", status: 400, err: "invalid_scope"},
		"§3.3: two spaces are no list":                                  {body: byForm + "&scope=agents:read++resume:read", status: 400, err: "invalid_scope"},
		"§3.3: a space alone is no scope":                               {body: byForm + "&scope=+", status: 400, err: "invalid_scope"},
		"§3.3: a tab separates nothing":                                 {body: byForm + "&scope=agents:read%09resume:read", status: 400, err: "invalid_scope"},
		"§5.2: what a client sent stands harmless in the description":   {body: byForm + "&scope=%C3%BC%22%5C%0D%0A%7F", status: 400, err: "invalid_scope"},
		"§5.2: also the name of a parameter":                            {body: byForm + "&%22%5C%0D%0Aü=1&%22%5C%0D%0Aü=2", status: 400, err: "invalid_request"},
		"§5.2: a scheme that is not known is answered with one that is": {body: grant, headers: []string{"Authorization", "Digest username=x"}, status: 401, err: "invalid_client"},
		"§5.2: a bearer token is no client authentication":              {body: grant, headers: []string{"Authorization", "Bearer " + w.token}, status: 401, err: "invalid_client"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := w.post(t, tokenPath, row.body, row.headers...)
			require.Equal(t, "no-store", got.header.Get("Cache-Control"), "§5.1, §5.2")
			require.Equal(t, "no-cache", got.header.Get("Pragma"), "§5.1, §5.2")
			require.Equal(t, "application/json", got.header.Get("Content-Type"))
			if row.err == "" {
				require.Equal(t, http.StatusOK, got.status, "%s", got.body)
				requireTokenResponse(t, got, row.scope)
				return
			}
			require.Equal(t, row.status, got.status, "%s", got.body)
			require.Equal(t, row.err, got.oauthError())
			require.Regexp(t, `^[\x20-\x21\x23-\x5B\x5D-\x7E]+$`, got.object(t)["error_description"], "§5.2")
			require.NotContains(t, string(got.body), secret)
			if row.status == http.StatusUnauthorized {
				require.Equal(t, `Basic realm="agentidp"`, got.header.Get("WWW-Authenticate"), "§5.2")
			}
		})
	}
}

// requireTokenResponse is RFC 6749 §5.1, and §4.4.3: no refresh token.
func requireTokenResponse(t *testing.T, got answer, scope string) {
	t.Helper()
	response := got.object(t)
	require.NotEmpty(t, response["access_token"])
	delete(response, "access_token")
	require.Equal(t, map[string]any{"token_type": "Bearer", "expires_in": 3600.0, "scope": scope}, response)
}

func introspectionAndRevocation(t *testing.T, w *world) {
	t.Helper()
	client := []string{"Authorization", inBasic(w.agent.id + ":" + w.agent.secret)}
	wrong := []string{"Authorization", inBasic(w.agent.id + ":wrong")}
	with := func(token string) []string { return []string{"Authorization", "Bearer " + token} }
	const basicChallenge, bearerChallenge = `Basic realm="agentidp"`, `Bearer realm="agentidp"`
	for name, row := range map[string]struct {
		path, body string
		headers    []string
		status     int
		err        string // of an error
		exactly    string // of a 200 whose whole body is known
		challenge  string // its beginning
	}{
		"RFC 7662 §2.1: a hint that is wrong changes nothing":                {path: introspectPath, body: "token_type_hint=refresh_token&token=" + w.token, headers: client, status: 200},
		"RFC 7662 §2.1: a hint that nobody knows changes nothing":            {path: introspectPath, body: "token_type_hint=%22x&token=" + w.token, headers: with(w.operator), status: 200},
		"RFC 7662 §2.2: nothing is said of what is no token":                 {path: introspectPath, body: "token=nonsense", headers: client, status: 200, exactly: `{"active":false}`},
		"RFC 7662 §2.2: nor of a token with another signature":               {path: introspectPath, body: "token=" + tamper(w.token), headers: client, status: 200, exactly: `{"active":false}`},
		"RFC 7662 §2.2: nor of one that is too long to look at":              {path: introspectPath, body: "token=" + strings.Repeat("a", 60000), headers: client, status: 200, exactly: `{"active":false}`},
		"RFC 7662 §2.1: the token is required":                               {path: introspectPath, body: "token_type_hint=access_token", headers: client, status: 400, err: "invalid_request"},
		"RFC 7662 §2.1: the token stands in the body":                        {path: introspectPath + "?token=" + w.token, body: "", headers: client, status: 400, err: "invalid_request"},
		"RFC 7662 §2.1: nobody may scan for tokens":                          {path: introspectPath, body: "token=" + w.token, status: 401, err: "invalid_token", challenge: bearerChallenge},
		"RFC 7662 §2.3: a wrong secret is answered as at the token endpoint": {path: introspectPath, body: "token=" + w.token, headers: wrong, status: 401, err: "invalid_client", challenge: basicChallenge},
		"RFC 7662 §2.3: a bad bearer token as RFC 6750 says":                 {path: introspectPath, body: "token=" + w.token, headers: with("x" + w.token), status: 401, err: "invalid_token", challenge: bearerChallenge + `, error="invalid_token"`},
		"RFC 7662 §2.3: so is a bearer token without the scope":              {path: introspectPath, body: "token=" + w.operator, headers: with(w.token), status: 403, err: "insufficient_scope", challenge: bearerChallenge + `, error="insufficient_scope", scope="tokens:read"`},
		"RFC 6750 §2.2: a token in the form authorizes nobody":               {path: introspectPath, body: "access_token=" + w.operator + "&token=" + w.token, status: 401, err: "invalid_token", challenge: bearerChallenge},
		"RFC 6750 §2.3: nor does one in the query":                           {path: introspectPath + "?access_token=" + w.operator, body: "token=" + w.token, status: 400, err: "invalid_request"},
		"RFC 7009 §2.2: an invalid token is as good as revoked":              {path: revokePath, body: "token=nonsense", headers: client, status: 200, exactly: "{}"},
		"RFC 7009 §2.2: also with a hint that nobody knows":                  {path: revokePath, body: "token=nonsense&token_type_hint=device_secret", headers: with(w.token), status: 200, exactly: "{}"},
		"RFC 7009 §2.1: the token is required":                               {path: revokePath, body: "token=", headers: client, status: 400, err: "invalid_request"},
		"RFC 7009 §2.1: the client proves who it is":                         {path: revokePath, body: "token=" + w.token, headers: wrong, status: 401, err: "invalid_client", challenge: basicChallenge},
		"RFC 7009 §2.1: an id alone proves nothing":                          {path: revokePath, body: "client_id=" + w.agent.id + "&token=" + w.token, status: 401, err: "invalid_token", challenge: bearerChallenge},
		"RFC 7009 §2.1: the token was issued to the client":                  {path: revokePath, body: "token=" + w.operator, headers: client, status: 403, err: "unauthorized_client"},
		"RFC 7009 §2.1: or to the holder of the bearer token":                {path: revokePath, body: "token=" + w.operator, headers: with(w.token), status: 403, err: "insufficient_scope", challenge: bearerChallenge + `, error="insufficient_scope", scope="agents:admin"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := w.post(t, row.path, row.body, row.headers...)
			require.Equal(t, row.status, got.status, "%s", got.body)
			require.Equal(t, "no-store", got.header.Get("Cache-Control"))
			require.Equal(t, row.err, got.oauthError())
			switch {
			case row.err != "":
				require.True(t, strings.HasPrefix(got.header.Get("WWW-Authenticate"), row.challenge), got.header.Get("WWW-Authenticate"))
				require.Equal(t, row.challenge == "", got.header.Get("WWW-Authenticate") == "")
			case strings.Contains(row.body, w.token):
				requireClaims(t, w, got)
			default:
				require.Equal(t, row.exactly, string(got.body))
			}
		})
	}
}

// requireClaims is RFC 7662 §2.2 for the agent's token: what it says is what the token says, in the types of RFC 7519.
func requireClaims(t *testing.T, w *world, got answer) {
	t.Helper()
	said := got.object(t)
	require.Equal(t, true, said["active"])
	require.Equal(t, "Bearer", said["token_type"])
	delete(said, "active")
	delete(said, "token_type")
	require.Equal(t, partOf(t, w.token, 1), said)
}

func partOf(t *testing.T, token string, part int) map[string]any {
	t.Helper()
	decoded, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[part])
	require.NoError(t, err)
	var content map[string]any
	require.NoError(t, json.Unmarshal(decoded, &content))
	return content
}

func tokensAndKeys(t *testing.T, w *world) {
	t.Helper()
	header, claims := partOf(t, w.token, 0), partOf(t, w.token, 1)
	published := w.signingKey(t)
	require.Equal(t, map[string]any{"alg": "RS256", "typ": "at+jwt", "kid": published["kid"]}, header, "RFC 9068 §2.1")

	issued, isNumber := claims["iat"].(float64)
	require.True(t, isNumber)
	require.NotEmpty(t, claims["jti"])
	require.NotEqual(t, claims["jti"], claimOf(w.operator, "jti"))
	delete(claims, "jti")
	require.Equal(t, map[string]any{
		"iss": w.url, "aud": w.url, "sub": w.agent.id, "client_id": w.agent.id, "iat": issued, "nbf": issued, "exp": issued + 3600,
		"scope": "agents:read", "agent_type": "screener", "owner": "talent", "deployment_env": "production",
	}, claims, "RFC 9068 §2.2, §2.2.3")

	encoded, err := json.Marshal(published)
	require.NoError(t, err)
	key, err := jwk.ParseKey(encoded)
	require.NoError(t, err)
	thumbprint, err := key.Thumbprint(crypto.SHA256)
	require.NoError(t, err)
	require.Equal(t, base64.RawURLEncoding.EncodeToString(thumbprint), published["kid"], "RFC 7638 §3")
	require.ElementsMatch(t, []string{"kty", "use", "alg", "kid", "n", "e"}, keysOf(published), "RFC 7517 §4, RFC 7518 §6.3.1: and nothing private")
	require.Equal(t, "AQAB", published["e"], "RFC 7518 §6.3.1.2: no octet more than needed")
}

func keysOf(object map[string]any) []string {
	var names []string
	for name := range object {
		names = append(names, name)
	}
	return names
}

func challenges(t *testing.T, w *world) {
	t.Helper()
	const realm = `Bearer realm="agentidp"`
	parameters := regexp.MustCompile(`^Bearer realm="agentidp"(, [a-z_]+="[\x20-\x21\x23-\x5B\x5D-\x7E]+")*$`)
	for name, row := range map[string]struct {
		query, authorization, method, body string
		status                             int
		challenge                          string // whole, or up to the description
	}{
		"§2.1: the scheme is written in any case":          {authorization: "bEARER " + w.operator, status: 200},
		"§3.1: who sends no token is told no error":        {status: 401, challenge: realm},
		"§3.1: nor is who uses another scheme":             {authorization: inBasic(w.agent.id + ":" + w.agent.secret), status: 401, challenge: realm},
		"§2.3: a token in the query is none":               {query: "?access_token=" + w.operator, status: 401, challenge: realm},
		"§2.2: a token in the body is none":                {method: http.MethodPost, body: `{"access_token":"` + w.operator + `"}`, status: 401, challenge: realm},
		"§2.1: what is no b64token is malformed":           {authorization: "Bearer a,b", status: 401, challenge: realm + `, error="invalid_token"`},
		"§2.1: nothing is no b64token":                     {authorization: "Bearer", status: 401, challenge: realm + `, error="invalid_token"`},
		"§3.1: a token that was changed":                   {authorization: "Bearer " + tamper(w.operator), status: 401, challenge: realm + `, error="invalid_token"`},
		"§3.1: a token without the scope is told which":    {method: http.MethodPost, authorization: "Bearer " + w.token, body: `{}`, status: 403, challenge: realm + `, error="insufficient_scope", scope="agents:write"`},
		"§2: a good token beside one in the query is none": {query: "?access_token=" + w.token, authorization: "Bearer " + w.operator, status: 400},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if row.method == "" {
				row.method = http.MethodGet
			}
			var body any
			if row.body != "" {
				body = row.body
			}
			req := w.request(t, row.method, "/api/v1/agents"+row.query, "", body)
			if row.authorization != "" {
				req.Header.Set("Authorization", row.authorization)
			}
			got := w.do(t, req)
			require.Equal(t, row.status, got.status, "%s", got.body)
			challenge := got.header.Get("WWW-Authenticate")
			if row.challenge == "" {
				require.Empty(t, challenge)
				return
			}
			require.Regexp(t, parameters, challenge)
			before, _, _ := strings.Cut(challenge, `, error_description=`)
			require.Equal(t, row.challenge, before)
			require.Len(t, got.header.Values("WWW-Authenticate"), 1)
		})
	}
}

func wrongHint(t *testing.T, w *world) {
	t.Helper()
	token := w.installation.token(t, w.agent.id, w.agent.secret, "")
	fields := url.Values{"token": {token}, "token_type_hint": {"refresh_token"}}
	for range 2 { // RFC 7009 §2.2: what is revoked is as good as revoked
		got := w.form(t, revokePath, fields, basic(w.agent.id, w.agent.secret))
		require.Equal(t, http.StatusOK, got.status, "%s", got.body)
		require.JSONEq(t, "{}", string(got.body))
	}
	eventually(t, func() bool {
		return string(w.form(t, introspectPath, url.Values{"token": {token}}, bearer(w.operator)).body) == `{"active":false}`
	}, "RFC 7009 §2.1: a hint is a hint")
}
