package token_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/jwk"
	"github.com/sentryagent/agentidp/pkg/registryapi"
)

const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// registerKey makes an agent that has no secret, but a key.
func (w *world) registerKey(t *testing.T) (uuid.UUID, *ecdsa.PrivateKey) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	set, err := jwk.MarshalSet([]jwk.Key{{ID: "k", Public: private.Public()}})
	require.NoError(t, err)
	id := w.peers.register(func(agent *registryapi.Agent) { agent.Keys = &registryapi.AgentKeys{JWKS: json.RawMessage(set)} })
	return id, private
}

func sign(t *testing.T, id uuid.UUID, private *ecdsa.PrivateKey) string {
	t.Helper()
	token := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{
		"iss": id.String(), "sub": id.String(), "aud": issuer, "jti": uuid.NewString(),
		"iat": time.Now().Unix(), "exp": time.Now().Add(time.Minute).Unix(),
	})
	raw, err := token.SignedString(private)
	require.NoError(t, err)
	return raw
}

func asserting(assertion string, more url.Values) url.Values {
	values := url.Values{"client_assertion_type": {assertionType}, "client_assertion": {assertion}}
	for name, value := range more {
		values[name] = value
	}
	return values
}

func (w *world) askByAssertion(t *testing.T, assertion string) reply {
	t.Helper()
	return w.post(t, "/api/v1/token", "", asserting(assertion, url.Values{"grant_type": {"client_credentials"}}))
}

func TestAnAgentProvesWhoItIsByWhatItSigned(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	id, private := w.registerKey(t)

	client := clientcredentials.Config{
		TokenURL: w.Public + "/api/v1/token", AuthStyle: oauth2.AuthStyleInParams, Scopes: []string{"tokens:read"},
		EndpointParams: asserting(sign(t, id, private), nil),
	}
	token, err := client.Token(t.Context())
	require.NoError(t, err)
	require.Equal(t, id.String(), claimsOf(t, token.AccessToken)["sub"])
	_, err = client.Token(t.Context())
	var refused *oauth2.RetrieveError
	require.ErrorAs(t, err, &refused, "an assertion is used once")
	require.Equal(t, "invalid_client", refused.ErrorCode)

	live := w.post(t, "/api/v1/token/introspect", "", asserting(sign(t, id, private), url.Values{"token": {token.AccessToken}}))
	require.Equal(t, true, live.field(t, "active"), live.body)
	revoked := w.post(t, "/api/v1/token/revoke", "", asserting(sign(t, id, private), url.Values{"token": {token.AccessToken}}))
	require.Equal(t, http.StatusOK, revoked.status, revoked.body)

	failed := w.eventsOf(t, auditevent.AuthFailed)
	require.Len(t, failed, 1)
	require.Equal(t, "invalid_assertion", failed[0].Metadata["reason"])
	require.Equal(t, id, *failed[0].AgentID)
}

func TestEveryFailedAssertionIsAnsweredAlike(t *testing.T) {
	t.Parallel()
	w := setup(t, map[string]string{"AUTH_FAILURES_PER_MINUTE": "0"})
	id, private := w.registerKey(t)
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	used := sign(t, id, private)
	require.Equal(t, http.StatusOK, w.askByAssertion(t, used).status)
	secret := w.ask(t, id, wrongSecret, "")
	for name, assertion := range map[string]string{
		"a wrong signature":  sign(t, id, stranger),
		"an unknown client":  sign(t, uuid.Must(uuid.NewV7()), stranger),
		"no keys registered": sign(t, w.peers.register(), stranger),
		"used before":        used,
		"no JWT":             "x",
	} {
		got := w.askByAssertion(t, assertion)
		require.Equal(t, secret.status, got.status, name)
		require.Equal(t, secret.body, got.body, name)
		for _, header := range []*http.Header{&secret.header, &got.header} {
			header.Del("X-Request-Id")
			header.Del("Date")
		}
		require.Equal(t, secret.header, got.header, name)
	}
}

func TestOneAssertionGetsOneTokenFromAllReplicas(t *testing.T) {
	t.Parallel()
	w := setup(t, map[string]string{"AUTH_FAILURES_PER_MINUTE": "0"})
	first := w.Replica
	id, private := w.registerKey(t)
	w.start(t) // another one beside it, on the same stores
	replicas := []*world{{Replica: first}, {Replica: w.Replica}}
	require.NotEqual(t, first.Public, w.Public)
	for range 3 {
		assertion := sign(t, id, private)
		var issued, refused atomic.Int64
		var all sync.WaitGroup
		for i := range 30 {
			all.Go(func() {
				switch replicas[i%2].askByAssertion(t, assertion).status {
				case http.StatusOK:
					issued.Add(1)
				case http.StatusUnauthorized:
					refused.Add(1)
				}
			})
		}
		all.Wait()
		require.EqualValues(t, 1, issued.Load())
		require.EqualValues(t, 29, refused.Load())
	}
}

func TestAnAssertionStaysUsedOverARestart(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	id, private := w.registerKey(t)
	assertion := sign(t, id, private)
	require.Equal(t, http.StatusOK, w.askByAssertion(t, assertion).status)
	w.Stop()
	w.start(t)
	require.Equal(t, http.StatusUnauthorized, w.askByAssertion(t, assertion).status)
	require.Equal(t, http.StatusOK, w.askByAssertion(t, sign(t, id, private)).status)
}
