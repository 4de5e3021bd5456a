package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/authn"
)

// plainVerifier reads the JWKS again when it is as old as cacheFor, and at no other time, not even for a key that it does
// not know.
type plainVerifier struct {
	url      string
	cacheFor time.Duration

	mu     sync.Mutex
	readAt time.Time
	keys   map[string]authn.Key
}

func (v *plainVerifier) verify(token string) error {
	_, err := jwt.Parse(token, func(token *jwt.Token) (any, error) {
		kid, _ := token.Header["kid"].(string)
		return v.key(kid)
	}, jwt.WithExpirationRequired())
	return err
}

func (v *plainVerifier) key(kid string) (any, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if time.Since(v.readAt) >= v.cacheFor {
		if err := v.read(); err != nil {
			return nil, err
		}
	}
	key, ok := v.keys[kid]
	if !ok {
		return nil, fmt.Errorf("key %s is not in the JWKS that is %s old", kid, time.Since(v.readAt))
	}
	return key.Public, nil
}

func (v *plainVerifier) read() error {
	readAt := time.Now()
	resp, err := client.Get(v.url)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	var raw json.RawMessage
	if err := json.NewDecoder(resp.Body).Decode(&raw); err != nil {
		return err
	}
	published, err := authn.ParseJWKS(raw)
	if err != nil {
		return err
	}
	v.readAt, v.keys = readAt, map[string]authn.Key{}
	for _, key := range published {
		v.keys[key.ID] = key
	}
	return nil
}

func kidOf(token string) string {
	parsed, _, err := jwt.NewParser().ParseUnverified(token, jwt.MapClaims{})
	if err != nil {
		return ""
	}
	kid, _ := parsed.Header["kid"].(string)
	return kid
}

// rotationLoad gets tokens and has each of them verified at once by a verifier that caches, and used at another service.
type rotationLoad struct {
	in       *installation
	agent    string
	fields   url.Values
	verifier *plainVerifier

	mu       sync.Mutex
	verified int
	failures []error
	byKey    map[string]string // a token of each key
}

func (l *rotationLoad) keys() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.byKey)
}

func (l *rotationLoad) run(ctx context.Context) {
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			ticker := time.NewTicker(50 * time.Millisecond)
			defer ticker.Stop()
			for ctx.Err() == nil {
				token, err := l.once()
				l.mu.Lock()
				l.verified++
				if err != nil {
					l.failures = append(l.failures, err)
				} else {
					l.byKey[kidOf(token)] = token
				}
				l.mu.Unlock()
				<-ticker.C
			}
		})
	}
	group.Wait()
}

func (l *rotationLoad) once() (string, error) {
	resp, err := client.PostForm(l.in.url+"/api/v1/token", l.fields)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	var body struct {
		Token string `json:"access_token"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil || body.Token == "" {
		return "", fmt.Errorf("no token: %d %w", resp.StatusCode, err)
	}
	if err := l.verifier.verify(body.Token); err != nil {
		return "", err
	}
	req, err := http.NewRequest(http.MethodGet, l.in.url+"/api/v1/agents/"+l.agent, nil)
	if err != nil {
		return "", err
	}
	bearer(body.Token)(req)
	got, err := l.in.try(req)
	if err == nil && got.status != http.StatusOK {
		err = fmt.Errorf("the registry answers %d %s", got.status, got.body)
	}
	return body.Token, err
}

func TestNoVerificationFailsWhileKeysRotate(t *testing.T) {
	t.Parallel()
	// In proportion to the defaults: keys are published for 10 minutes, and caches keep a JWKS for 5.
	in := install(t, "KEY_PROPAGATION=10s", "KEY_ROTATION=12s", "SIGNING_ALG=ES256",
		"RATE_LIMIT_PER_MINUTE=0", "FREE_TIER_MAX_MONTHLY_TOKENS=0", "LOG_LEVEL=warn")
	operator := in.operator(t)
	agent := in.register(t, operator, "rotation@example.com", nil)
	_, secret := in.credential(t, operator, agent)
	load := &rotationLoad{
		in: in, agent: agent, byKey: map[string]string{},
		fields:   url.Values{"grant_type": {"client_credentials"}, "client_id": {agent}, "client_secret": {secret}},
		verifier: &plainVerifier{url: in.url + "/.well-known/jwks.json", cacheFor: 5 * time.Second},
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { load.run(ctx); close(ended) }()
	t.Cleanup(stop)
	require.Eventually(t, func() bool { return load.keys() >= 4 }, 3*time.Minute, 100*time.Millisecond, "the keys do not rotate")
	stop()
	<-ended

	t.Logf("%d tokens verified over %d keys, %d failures", load.verified, len(load.byKey), len(load.failures))
	require.Empty(t, load.failures)
	require.Greater(t, load.verified, 200)
	remote := oidc.NewRemoteKeySet(context.Background(), in.url+"/.well-known/jwks.json")
	for kid, token := range load.byKey {
		_, err := remote.VerifySignature(context.Background(), token)
		require.NoError(t, err, "what key %s signed goes on until it expires", kid)
		require.Equal(t, http.StatusOK, in.call(t, http.MethodGet, "/api/v1/agents/"+agent, token, nil).status)
	}
}

// keys runs `agentidp keys` for the installation.
func (in *installation) keys(t *testing.T, args ...string) (string, error) {
	t.Helper()
	path, err := program()
	require.NoError(t, err)
	out, err := exec.Command(path, append([]string{"keys", "--data-dir", in.dir}, args...)...).CombinedOutput()
	return string(out), err
}

func TestAnOperatorRotatesAndRetiresKeys(t *testing.T) {
	t.Parallel()
	in := install(t, "KEY_PROPAGATION=10s", "KEY_ROTATION=0")
	operator := in.operator(t)
	published := func() string {
		return string(in.call(t, http.MethodGet, "/.well-known/jwks.json", "", nil).body)
	}
	old := in.token(t, in.clientID, in.clientSecret, allScopes)
	out, err := in.keys(t, "rotate", "--json")
	require.NoError(t, err, out)
	var next struct {
		Kid       string
		SignsFrom time.Time
	}
	require.NoError(t, json.Unmarshal([]byte(out), &next))
	require.Eventually(t, func() bool { return strings.Contains(published(), next.Kid) }, 10*time.Second, 100*time.Millisecond)
	out, err = in.keys(t, "rotate")
	require.Error(t, err)
	require.Contains(t, out, next.Kid)

	var fresh string
	require.Eventually(t, func() bool {
		fresh = in.token(t, in.clientID, in.clientSecret, allScopes)
		return kidOf(fresh) == next.Kid
	}, 30*time.Second, 500*time.Millisecond, "the next key does not sign")
	require.False(t, time.Now().Before(next.SignsFrom))
	require.Equal(t, http.StatusOK, in.call(t, http.MethodGet, "/api/v1/agents", old, nil).status)

	// The old key has become known to somebody: nothing it signed is believed any more, anywhere.
	out, err = in.keys(t, "retire", kidOf(old))
	require.NoError(t, err, out)
	for _, path := range []string{"/api/v1/agents", "/api/v1/agents/" + in.clientID + "/credentials", "/api/v1/audit"} {
		require.Eventually(t, func() bool {
			return in.call(t, http.MethodGet, path, old, nil).status == http.StatusUnauthorized
		}, 20*time.Second, 200*time.Millisecond, path)
		require.Equal(t, http.StatusOK, in.call(t, http.MethodGet, path, fresh, nil).status, path)
	}
	require.Equal(t, http.StatusUnauthorized, in.call(t, http.MethodGet, "/api/v1/agents", operator, nil).status)
	require.NotContains(t, published(), kidOf(old))
	out, err = in.keys(t, "list", "--all")
	require.NoError(t, err)
	require.Regexp(t, kidOf(old)+` +RS256 +gone`, out)
	require.Regexp(t, next.Kid+` +RS256 +active`, out)
}
