package token_test

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/lifecycle"
	"github.com/sentryagent/agentidp/pkg/registryapi"
	"github.com/sentryagent/agentidp/pkg/testkit"
	"github.com/sentryagent/agentidp/services/token"
)

func TestAnAgentGetsATokenIntrospectsAndRevokesIt(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	id := w.peers.register()

	got := w.ask(t, id, goodSecret, "resume:read tokens:read resume:read")
	require.Equal(t, http.StatusOK, got.status, got.body)
	require.Equal(t, "Bearer", got.field(t, "token_type"))
	require.EqualValues(t, 3600, got.field(t, "expires_in"))
	require.Equal(t, "resume:read tokens:read", got.field(t, "scope"))
	require.Equal(t, "no-store", got.header.Get("Cache-Control"))
	require.Equal(t, "no-cache", got.header.Get("Pragma"))
	access, _ := got.field(t, "access_token").(string)

	live := w.introspect(t, access, access)
	require.Equal(t, http.StatusOK, live.status, live.body)
	require.Equal(t, true, live.field(t, "active"))
	require.Equal(t, id.String(), live.field(t, "sub"))
	require.Equal(t, "talent", live.field(t, "owner"))

	require.Equal(t, http.StatusOK, w.revoke(t, access, access).status)
	refused := w.introspect(t, access, access)
	require.Equal(t, http.StatusUnauthorized, refused.status, refused.body)
	other := w.issue(t, id, "tokens:read")
	require.JSONEq(t, `{"active":false}`, w.introspect(t, other, access).body)

	issued := w.eventsOf(t, auditevent.TokenIssued)
	require.Len(t, issued, 2)
	require.Equal(t, id, *issued[0].AgentID)
	require.Len(t, w.eventsOf(t, auditevent.TokenIntrospected), 2)
	require.Eventually(t, func() bool { return len(w.eventsOf(t, auditevent.TokenRevoked)) == 1 }, soon, often)
	require.Equal(t, live.field(t, "jti"), w.eventsOf(t, auditevent.TokenRevoked)[0].Metadata["jti"])
}

func TestATokenForAResourceIsAnsweredAboutAndOpensNothingHere(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	id := w.peers.register(func(agent *registryapi.Agent) {
		agent.AllowedResources = []string{"https://api.example.com", "https://files.example.com"}
	})
	own := w.issue(t, id, "tokens:read")
	require.Equal(t, issuer, claimsOf(t, own)["aud"])
	ask := func(resources ...string) reply {
		return w.post(t, "/api/v1/token", "", url.Values{
			"grant_type": {"client_credentials"}, "client_id": {id.String()}, "client_secret": {goodSecret},
			"scope": {"tokens:read"}, "resource": resources,
		})
	}
	for want, resources := range map[any][]string{
		"https://api.example.com": {"https://api.example.com"},
		"both":                    {"https://files.example.com", "https://api.example.com"},
	} {
		got := ask(resources...)
		require.Equal(t, http.StatusOK, got.status, got.body)
		access, _ := got.field(t, "access_token").(string)
		if want == "both" {
			want = []any{"https://files.example.com", "https://api.example.com"}
		}
		require.Equal(t, want, claimsOf(t, access)["aud"])
		live := w.introspect(t, own, access)
		require.Equal(t, true, live.field(t, "active"), live.body)
		require.Equal(t, want, live.field(t, "aud"))

		asCaller := w.introspect(t, access, own)
		require.Equal(t, http.StatusUnauthorized, asCaller.status, "it is for somebody else")
		require.Contains(t, asCaller.header.Get("WWW-Authenticate"), `error="invalid_token"`)

		require.Equal(t, http.StatusOK, w.revoke(t, own, access).status)
		require.JSONEq(t, `{"active":false}`, w.introspect(t, own, access).body)
	}
	refused := ask("https://api.example.com", "https://other.example.com")
	require.Equal(t, http.StatusBadRequest, refused.status)
	require.Equal(t, "invalid_target", refused.field(t, "error"))

	issued := w.eventsOf(t, auditevent.TokenIssued)
	require.Len(t, issued, 3)
	require.NotContains(t, issued[0].Metadata, "resource")
	require.NotEmpty(t, issued[1].Metadata["resource"])
}

func TestThirdPartyClientsWork(t *testing.T) {
	t.Parallel()
	for _, algorithm := range []string{"RS256", "ES256", "EdDSA"} {
		t.Run(algorithm, func(t *testing.T) {
			t.Parallel()
			w := setup(t, map[string]string{"SIGNING_ALG": algorithm})
			id := w.peers.register()
			for name, style := range map[string]oauth2.AuthStyle{"form": oauth2.AuthStyleInParams, "basic": oauth2.AuthStyleInHeader} {
				client := clientcredentials.Config{
					ClientID: id.String(), ClientSecret: goodSecret, AuthStyle: style,
					TokenURL: w.Public + "/api/v1/token", Scopes: []string{"agents:read", "resume:read"},
				}
				got, err := client.Token(t.Context())
				require.NoError(t, err, name)
				require.Equal(t, "Bearer", got.TokenType)

				keys := oidc.NewRemoteKeySet(t.Context(), w.Public+"/.well-known/jwks.json")
				verifier := oidc.NewVerifier(issuer, keys, &oidc.Config{ClientID: issuer, SupportedSigningAlgs: []string{algorithm}})
				verified, err := verifier.Verify(t.Context(), got.AccessToken)
				require.NoError(t, err, name)
				require.Equal(t, id.String(), verified.Subject)
			}
		})
	}
}

func TestDiscoveryIsAcceptedByAnOpenIDClient(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	ctx := oidc.InsecureIssuerURLContext(t.Context(), issuer)
	provider, err := oidc.NewProvider(ctx, w.Public)
	require.NoError(t, err)
	require.Equal(t, issuer+"/api/v1/token", provider.Endpoint().TokenURL)
}

func TestSuspendingAnAgentEndsItsTokensWithinASecond(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	id, watcher := w.peers.register(), w.peers.register()
	access, observer := w.issue(t, id, ""), w.issue(t, watcher, "tokens:read")

	suspended := w.peers.change(id, func(agent *registryapi.Agent) { agent.Status = registryapi.StatusSuspended })
	w.announce(t, suspended)
	require.Eventually(t, func() bool {
		return w.introspect(t, observer, access).body == `{"active":false}`
	}, time.Second, often)
	require.Eventually(t, func() bool { return w.ask(t, id, goodSecret, "").status == http.StatusForbidden }, time.Second, often)
	got := w.ask(t, id, goodSecret, "")
	require.Equal(t, "unauthorized_client", got.field(t, "error"))

	reactivated := w.peers.change(id, func(agent *registryapi.Agent) { agent.Status = registryapi.StatusActive })
	w.announce(t, reactivated)
	require.Eventually(t, func() bool { return w.ask(t, id, goodSecret, "").status == http.StatusOK }, time.Second, often)
	require.JSONEq(t, `{"active":false}`, w.introspect(t, observer, access).body, "the old token stays refused")
	require.Eventually(t, func() bool {
		return w.introspect(t, observer, w.issue(t, id, "")).field(t, "active") == true
	}, time.Second, often, "the block is lifted once the message has arrived; nothing here writes to Redis as the registry does")
	require.NotEmpty(t, w.eventsOf(t, auditevent.AuthFailed))
}

func (w *world) announce(t *testing.T, agent registryapi.Agent) {
	t.Helper()
	message, err := lifecycle.AgentChanged{
		AgentID: agent.AgentID, Status: agent.Status, Revision: agent.Revision,
		TokensValidAfter: agent.TokensValidAfter, OccurredAt: time.Now(),
	}.Message(uuid.Must(uuid.NewV7()))
	w.publish(t, message, err)
}

func TestARevokedSecretGetsNoTokenWithinASecond(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	id := w.peers.register()
	w.issue(t, id, "")
	w.peers.mu.Lock()
	delete(w.peers.secrets, id)
	w.peers.mu.Unlock()
	message, err := lifecycle.CredentialChanged{AgentID: id, CredentialID: credentialOf(id), OccurredAt: time.Now()}.Message(uuid.Must(uuid.NewV7()))
	w.publish(t, message, err)
	require.Eventually(t, func() bool { return w.ask(t, id, goodSecret, "").status == http.StatusUnauthorized }, time.Second, often)
}

func TestAnUnknownClientAndAWrongSecretAreAnsweredAlike(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	id := w.peers.register()
	wrong := w.ask(t, id, wrongSecret, "")
	unknown := w.ask(t, uuid.Must(uuid.NewV7()), goodSecret, "")
	require.Equal(t, http.StatusUnauthorized, wrong.status)
	require.Equal(t, wrong.status, unknown.status)
	require.Equal(t, wrong.body, unknown.body)
	require.Empty(t, wrong.header.Get("WWW-Authenticate"), "Basic was not used")
	for _, header := range []http.Header{wrong.header, unknown.header} {
		header.Del("X-Request-Id")
		header.Del("Date")
	}
	require.Equal(t, wrong.header, unknown.header)
	require.EqualValues(t, 2, w.peers.verified.Load())

	failed := w.eventsOf(t, auditevent.AuthFailed)
	require.Len(t, failed, 2)
	require.Equal(t, auditevent.ReasonInvalidSecret, failed[0].Metadata["reason"])
	require.Equal(t, auditevent.ReasonAgentNotFound, failed[1].Metadata["reason"])
	require.Equal(t, auditevent.Failure, failed[1].Outcome)
	require.Nil(t, failed[1].ActorID)
}

func TestFailuresAreLimitedAndNeverStopTheRightSecret(t *testing.T) {
	t.Parallel()
	w := setup(t, map[string]string{"AUTH_FAILURES_PER_MINUTE": "3"})
	id := w.peers.register()
	for range 3 {
		require.Equal(t, http.StatusUnauthorized, w.ask(t, id, wrongSecret, "").status)
	}
	limited := w.ask(t, id, wrongSecret, "")
	require.Equal(t, http.StatusTooManyRequests, limited.status)
	require.Equal(t, "RATE_LIMIT_EXCEEDED", limited.field(t, "code"))
	require.NotEmpty(t, limited.field(t, "error"))
	require.NotEmpty(t, limited.header.Get("Retry-After"))
	require.Len(t, w.eventsOf(t, auditevent.AuthFailed), 3, "a limited failure makes no event")
	w.issue(t, id, "")
}

func TestAnAuthorizationThatCannotBeReadIsAFailureAsAnyOther(t *testing.T) {
	t.Parallel()
	w := setup(t, map[string]string{"AUTH_FAILURES_PER_MINUTE": "2"})
	id := w.peers.register()
	for _, path := range []string{"/api/v1/token", "/api/v1/token/introspect"} {
		before := len(w.eventsOf(t, auditevent.AuthFailed))
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.Public+path, strings.NewReader("grant_type=client_credentials&token=x"))
		require.NoError(t, err)
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		request.Header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(id.String()+":100%")))
		got := w.send(t, request)
		require.Equal(t, http.StatusUnauthorized, got.status, got.body)
		require.Equal(t, "invalid_client", got.field(t, "error"))
		failed := w.eventsOf(t, auditevent.AuthFailed)
		require.Len(t, failed, before+1)
		require.Equal(t, id, *failed[before].AgentID)
	}
	require.Equal(t, http.StatusTooManyRequests, w.ask(t, id, wrongSecret, "").status, "they were counted")
}

func TestTheRateLimitIsShownAndKept(t *testing.T) {
	t.Parallel()
	w := setup(t, map[string]string{"RATE_LIMIT_PER_MINUTE": "2"})
	id := w.peers.register()
	first := w.ask(t, id, goodSecret, "")
	require.Equal(t, []string{"2", "1"}, []string{first.header.Get("X-RateLimit-Limit"), first.header.Get("X-RateLimit-Remaining")})
	require.Equal(t, http.StatusBadRequest, w.ask(t, id, goodSecret, "audit:read").status, "a refused scope counts as well")
	limited := w.ask(t, id, goodSecret, "")
	require.Equal(t, http.StatusTooManyRequests, limited.status)
	require.Equal(t, "0", limited.header.Get("X-RateLimit-Remaining"))
	require.NotEmpty(t, limited.header.Get("Retry-After"))
	asked := w.peers.lookups.Load()
	require.Equal(t, http.StatusTooManyRequests, w.ask(t, id, goodSecret, "audit:read").status)
	require.Equal(t, asked, w.peers.lookups.Load(), "and nobody is asked for it")
	untouched := w.ask(t, id, wrongSecret, "")
	require.Equal(t, "2", untouched.header.Get("X-RateLimit-Remaining"), "a failed authentication shows an untouched window")
}

func TestAnAssertionPastTheRateLimitIsToldOfItsOwnWindow(t *testing.T) {
	t.Parallel()
	w := setup(t, map[string]string{"RATE_LIMIT_PER_MINUTE": "2"})
	id, private := w.registerKey(t)
	for range 2 {
		require.Equal(t, http.StatusOK, w.askByAssertion(t, sign(t, id, private)).status)
	}
	token := w.askByAssertion(t, sign(t, id, private))
	introspection := w.post(t, "/api/v1/token/introspect", "", asserting(sign(t, id, private), url.Values{"token": {"x"}}))
	for _, limited := range []reply{token, introspection} {
		require.Equal(t, http.StatusTooManyRequests, limited.status)
		require.Equal(t, []string{"2", "0"}, []string{limited.header.Get("X-RateLimit-Limit"), limited.header.Get("X-RateLimit-Remaining")})
		require.NotEmpty(t, limited.header.Get("Retry-After"))
	}
}

func TestTheMonthlyQuotaIsExactUnderConcurrency(t *testing.T) {
	t.Parallel()
	const limit, clients, each = 50, 64, 3
	w := setup(t, map[string]string{"FREE_TIER_MAX_MONTHLY_TOKENS": "50"})
	id := w.peers.register()
	var issued, refused atomic.Int64
	var group sync.WaitGroup
	for range clients {
		group.Go(func() {
			for range each {
				switch got := w.ask(t, id, goodSecret, ""); got.status {
				case http.StatusOK:
					issued.Add(1)
				case http.StatusForbidden:
					refused.Add(1)
				}
			}
		})
	}
	group.Wait()
	require.EqualValues(t, limit, issued.Load())
	require.EqualValues(t, clients*each-limit, refused.Load())
	last := w.ask(t, id, goodSecret, "")
	require.Contains(t, last.field(t, "error_description"), "50")
	require.Len(t, w.eventsOf(t, auditevent.TokenIssued), limit)
}

func TestTokensGoOnForKnownAgentsWhileThePeersAreDown(t *testing.T) {
	t.Parallel()
	w := setup(t, map[string]string{"RATE_LIMIT_PER_MINUTE": "100"})
	known, stranger := w.peers.register(), w.peers.register()
	w.issue(t, known, "")
	w.peers.down.Store(true)
	w.issue(t, known, "")
	for remaining, got := range map[string]reply{
		"100": w.ask(t, stranger, goodSecret, ""), // nothing is charged to who is not known
		"97":  w.ask(t, known, goodSecret, "audit:read"),
	} {
		require.Equal(t, http.StatusServiceUnavailable, got.status)
		require.Equal(t, "temporarily_unavailable", got.field(t, "error"))
		require.NotEmpty(t, got.header.Get("Retry-After"))
		require.Equal(t, remaining, got.header.Get("X-RateLimit-Remaining"))
	}
	require.Equal(t, "invalid_scope", w.ask(t, known, goodSecret, "audit:read  ").field(t, "error"))
}

func TestTheSecondStartHasTheSameKeysAndRevocations(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	id := w.peers.register()
	revoked, kept := w.issue(t, id, ""), w.issue(t, id, "tokens:read")
	require.Equal(t, http.StatusOK, w.revoke(t, kept, revoked).status)
	before := w.get(t, w.Public+"/.well-known/jwks.json")
	w.Stop()
	require.NotEmpty(t, w.peers.uses, "uses are reported at the end")
	w.start(t)
	after := w.get(t, w.Public+"/.well-known/jwks.json")
	require.Equal(t, before.body, after.body)
	require.Equal(t, true, w.introspect(t, kept, kept).field(t, "active"))
	require.JSONEq(t, `{"active":false}`, w.introspect(t, kept, revoked).body)
}

func TestAnotherAgentsTokenIsNotRevokedWithoutAdmin(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	victim, stranger := w.peers.register(), w.peers.register()
	admin := w.peers.register(func(agent *registryapi.Agent) { agent.AllowedScopes = []string{"agents:admin"} })
	access := w.issue(t, victim, "tokens:read")
	got := w.revoke(t, w.issue(t, stranger, ""), access)
	require.Equal(t, http.StatusForbidden, got.status)
	require.Equal(t, "FORBIDDEN", got.field(t, "code"))
	require.Equal(t, true, w.introspect(t, access, access).field(t, "active"))
	require.Equal(t, http.StatusOK, w.revoke(t, w.issue(t, admin, "agents:admin"), access).status)
	require.Equal(t, http.StatusUnauthorized, w.introspect(t, access, access).status)
	for _, garbage := range []string{"garbage", strings.Repeat("a", 9000), "a.b.c"} {
		require.Equal(t, http.StatusOK, w.revoke(t, w.issue(t, stranger, ""), garbage).status)
	}
}

func TestATokenThatHasEndedByOneClockIsRevokedForTheOthers(t *testing.T) {
	t.Parallel()
	private := importable(t)
	w := setup(t, map[string]string{"JWT_PRIVATE_KEY": private})
	owner, stranger := w.peers.register(), w.peers.register()
	kid := kidOf(t, w.issue(t, owner, ""))
	for name, row := range map[string]struct {
		key     string
		from    time.Duration // from now
		by      uuid.UUID
		status  int
		revoked bool
	}{
		"ended a moment ago":          {private, -61 * time.Minute, owner, 200, true},
		"ended almost an hour ago":    {private, -119 * time.Minute, owner, 200, true},
		"ended more than an hour ago": {private, -121 * time.Minute, owner, 200, false},
		"not begun yet":               {private, 10 * time.Minute, owner, 200, true},
		"ended, of another agent":     {private, -61 * time.Minute, stranger, 403, false},
		"ended, of another issuer":    {importable(t), -61 * time.Minute, owner, 200, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			jti := uuid.Must(uuid.NewV7()).String()
			access := forge(t, row.key, kid, owner, jti, time.Now().Add(row.from))
			require.Equal(t, http.StatusUnauthorized, w.revoke(t, access, access).status, "it opens nothing itself")
			form := url.Values{"client_id": {row.by.String()}, "client_secret": {goodSecret}, "token": {access}}
			require.JSONEq(t, `{"active":false}`, w.post(t, "/api/v1/token/introspect", "", form).body)
			require.Equal(t, row.status, w.post(t, "/api/v1/token/revoke", "", form).status)
			require.Equal(t, row.revoked, w.check(t, internalToken, owner, jti).field(t, "revoked"))
		})
	}
}

// forge signs a token of an hour as a replica whose clock is another would.
func forge(t *testing.T, key, kid string, id uuid.UUID, jti string, from time.Time) string {
	t.Helper()
	private, err := jwt.ParseECPrivateKeyFromPEM([]byte(key))
	require.NoError(t, err)
	access := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{
		"iss": issuer, "sub": id.String(), "client_id": id.String(), "aud": issuer, "jti": jti, "scope": "agents:read",
		"iat": from.Unix(), "nbf": from.Unix(), "exp": from.Add(time.Hour).Unix(),
	})
	access.Header["typ"], access.Header["kid"] = "at+jwt", kid
	raw, err := access.SignedString(private)
	require.NoError(t, err)
	return raw
}

func TestClientsMayAskAboutTokensWithTheirSecret(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	id := w.peers.register()
	access := w.issue(t, id, "")
	form := url.Values{"client_id": {id.String()}, "client_secret": {goodSecret}, "token": {access}, "token_type_hint": {"refresh_token"}}
	require.Equal(t, true, w.post(t, "/api/v1/token/introspect", "", form).field(t, "active"))
	require.Equal(t, http.StatusOK, w.post(t, "/api/v1/token/revoke", "", form).status)
	require.Equal(t, false, w.post(t, "/api/v1/token/introspect", "", form).field(t, "active"))
	form.Set("client_secret", wrongSecret)
	got := w.post(t, "/api/v1/token/introspect", "", form)
	require.Equal(t, http.StatusUnauthorized, got.status)
	require.Equal(t, "invalid_client", got.field(t, "error"))
	require.Equal(t, "UNAUTHORIZED", got.field(t, "code"))
}

func TestMetricsCountTokensAndCaches(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	id := w.peers.register()
	w.issue(t, id, "")
	w.issue(t, id, "")
	w.ask(t, id, wrongSecret, "")
	metrics := w.get(t, w.Internal+"/metrics").body
	for _, line := range []string{
		`agentidp_tokens_issued_total{outcome="success"} 2`,
		`agentidp_tokens_issued_total{outcome="invalid_client"} 1`,
		`agentidp_tokens_issued_total{outcome="invalid_scope"} 0`,
		`agentidp_token_issue_duration_seconds_count 2`,
		`agentidp_cache_requests_total{cache="secret",result="hit"} 1`,
	} {
		require.Contains(t, metrics, line)
	}
	require.NotContains(t, metrics, id.String())
}

func TestAWrongConfigurationIsNamedAtOnce(t *testing.T) {
	t.Parallel()
	_, err := token.LoadConfig(testkit.Environment(map[string]string{
		"ISSUER": "https://idp.example.com/", "TOKEN_TTL": "59", "SIGNING_ALG": "HS256",
		"KEY_ENCRYPTION_KEY": "c2hvcnQ=", "REGISTRY_INTERNAL_URL": "ftp://registry", "CREDENTIALS_INTERNAL_URL": "credentials", "FREE_TIER_MAX_MONTHLY_TOKENS": "-1",
	}))
	require.Error(t, err)
	for _, name := range []string{
		"ISSUER", "TOKEN_TTL", "SIGNING_ALG", "KEY_ENCRYPTION_KEY", "REGISTRY_INTERNAL_URL",
		"FREE_TIER_MAX_MONTHLY_TOKENS", "DATABASE_URL", "CREDENTIALS_INTERNAL_URL", "INTERNAL_API_TOKEN",
	} {
		require.ErrorContains(t, err, name)
	}
	require.NotContains(t, err.Error(), "c2hvcnQ=")
}
