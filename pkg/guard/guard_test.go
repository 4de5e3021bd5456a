package guard_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/authn"
	"github.com/sentryagent/agentidp/pkg/authz"
	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/guard"
	"github.com/sentryagent/agentidp/pkg/httpx"
	"github.com/sentryagent/agentidp/pkg/ratelimit"
	"github.com/sentryagent/agentidp/pkg/redisx"
	"github.com/sentryagent/agentidp/pkg/revocation"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/pkg/testkit"
	"github.com/sentryagent/agentidp/pkg/tokenapi"
)

const (
	issuer = "https://idp.example"
	limit  = 3
)

// roundTrips counts what goes to Redis.
type roundTrips struct{ commands, pipelines atomic.Int64 }

func (r *roundTrips) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) { return next(ctx, network, addr) }
}

func (r *roundTrips) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		r.commands.Add(1)
		return next(ctx, cmd)
	}
}

func (r *roundTrips) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		r.pipelines.Add(1)
		return next(ctx, cmds)
	}
}

// tokenService is the token service as its peers see it.
type tokenService struct {
	jwks    []byte
	revoked bool
	err     error
	asked   atomic.Int64
}

func (s *tokenService) Do(_ context.Context, method, path string, _, out any) error {
	if s.err != nil {
		return s.err
	}
	switch method + " " + path {
	case "GET /jwks":
		return json.Unmarshal(s.jwks, out)
	case "POST /revocations/check":
		s.asked.Add(1)
		return json.Unmarshal([]byte(`{"revoked":`+strconv.FormatBool(s.revoked)+`}`), out)
	default:
		return errors.New("no such route: " + path)
	}
}

func (s *tokenService) Ask(ctx context.Context, path string, in, out any) error {
	return s.Do(ctx, http.MethodPost, path, in, out)
}

type bundle struct {
	router http.Handler
	guard  *guard.Guard
	store  *revocation.Store
	rdb    *redisx.Client
	tokens *tokenService
	trips  *roundTrips
	key    ed25519.PrivateKey
	agent  uuid.UUID
	origin *auditevent.Origin // of the last request that was admitted
}

func setup(t *testing.T) bundle {
	t.Helper()
	return setupOn(t, testkit.Redis(t), limit)
}

func setupOn(t *testing.T, rdb *redisx.Client, perMinute int) bundle {
	t.Helper()
	return setupWith(t, rdb, guard.Config{Issuer: issuer, RateLimitPerMinute: perMinute})
}

func setupWith(t *testing.T, rdb *redisx.Client, cfg guard.Config) bundle {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	jwks, err := authn.MarshalJWKS([]authn.Key{{ID: "k", Algorithm: authn.EdDSA, Public: public}})
	require.NoError(t, err)

	b := bundle{
		rdb: rdb, store: revocation.NewStore(rdb), tokens: &tokenService{jwks: jwks}, trips: &roundTrips{},
		key: private, agent: uuid.New(), origin: &auditevent.Origin{},
	}
	rdb.AddHook(b.trips)
	b.guard, err = guard.NewRemote(t.Context(), cfg, tokenapi.NewClient(b.tokens), rdb, telemetry.Discard("test"))
	require.NoError(t, err)
	b.router = routes(b.guard, b.origin)
	return b
}

// revoke refuses the token of that id.
func (b bundle) revoke(ctx context.Context, id string) error {
	return b.store.Load(ctx, []revocation.Revoked{{TokenID: id, ExpiresAt: time.Now().Add(time.Hour)}}, nil)
}

// routes has one route that is about an agent, as the registry's are, and one that takes client authentication.
func routes(g *guard.Guard, origin *auditevent.Origin) http.Handler {
	router := gin.New()
	api := router.Group("/api/v1")
	api.PATCH("/agents/:agentId", g.Authenticate(), httpx.Handle(func(c *gin.Context) error {
		*origin = guard.Origin(c)
		if err := g.Authorize(c, &authz.Resource{AgentID: c.Param("agentId"), Owner: "team-b"}); err != nil {
			return err
		}
		c.String(http.StatusOK, guard.PrincipalOf(c).AgentID.String())
		return nil
	}))
	api.POST("/token/revoke", httpx.Handle(func(c *gin.Context) error {
		*origin = guard.Origin(c)
		if err := g.AuthorizeClient(c, c.Query("client"), &authz.Resource{AgentID: c.Query("of")}); err != nil {
			return err
		}
		c.Status(http.StatusOK)
		return nil
	}))
	return router
}

// hydrated makes Redis believed.
func (b bundle) hydrated(t *testing.T) bundle {
	t.Helper()
	require.NoError(t, b.store.Hydrate(t.Context(), func(context.Context) error { return nil }))
	return b
}

type issued struct {
	raw, id string
	at      time.Time
}

func (b bundle) token(t *testing.T, scope string) issued {
	t.Helper()
	id, err := uuid.NewV7()
	require.NoError(t, err)
	sec, nsec := id.Time().UnixTime()
	at := time.Unix(sec, nsec)
	token := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.MapClaims{
		"iss": issuer, "aud": issuer, "sub": b.agent.String(), "client_id": b.agent.String(), "jti": id.String(),
		"iat": at.Unix(), "nbf": at.Unix(), "exp": at.Add(time.Hour).Unix(), "scope": scope, "owner": "team-a",
	})
	token.Header["typ"], token.Header["kid"] = "at+jwt", "k"
	raw, err := token.SignedString(b.key)
	require.NoError(t, err)
	return issued{raw: raw, id: id.String(), at: at}
}

func (b bundle) patch(t *testing.T, agentID uuid.UUID, authorization ...string) *httptest.ResponseRecorder {
	t.Helper()
	req := httptest.NewRequestWithContext(t.Context(), http.MethodPatch, "/api/v1/agents/"+agentID.String(), nil)
	for _, a := range authorization {
		req.Header.Add("Authorization", a)
	}
	req.Header.Set("User-Agent", "agent/1")
	req.RemoteAddr = "192.0.2.7:1234"
	res := httptest.NewRecorder()
	b.router.ServeHTTP(res, req)
	return res
}

func requireRate(t *testing.T, res *httptest.ResponseRecorder, remaining int) {
	t.Helper()
	require.Equal(t, strconv.Itoa(limit), res.Header().Get("X-RateLimit-Limit"))
	require.Equal(t, strconv.Itoa(remaining), res.Header().Get("X-RateLimit-Remaining"))
	reset, err := strconv.ParseInt(res.Header().Get("X-RateLimit-Reset"), 10, 64)
	require.NoError(t, err)
	require.InDelta(t, time.Now().Add(time.Minute).Unix(), reset, 5)
}

func requireCode(t *testing.T, res *httptest.ResponseRecorder, code apperr.Code) map[string]any {
	t.Helper()
	var body struct {
		Code    apperr.Code
		Details map[string]any
	}
	require.NoError(t, json.Unmarshal(res.Body.Bytes(), &body), res.Body.String())
	require.Equal(t, code, body.Code)
	require.Equal(t, code.Status(), res.Code)
	return body.Details
}

func TestAGoodTokenIsAdmittedInOneRoundTrip(t *testing.T) {
	t.Parallel()
	b := setup(t).hydrated(t)
	bearer := "Bearer " + b.token(t, authz.ScopeAgentsWrite).raw
	require.Equal(t, http.StatusOK, b.patch(t, b.agent, bearer).Code) // loads the script
	commands, pipelines := b.trips.commands.Load(), b.trips.pipelines.Load()

	res := b.patch(t, b.agent, bearer)
	require.Equal(t, http.StatusOK, res.Code)
	require.Equal(t, b.agent.String(), res.Body.String())
	requireRate(t, res, limit-2)
	require.Equal(t, commands+1, b.trips.commands.Load())
	require.Equal(t, pipelines, b.trips.pipelines.Load())
	require.Zero(t, b.tokens.asked.Load())
	require.Equal(t, auditevent.Origin{ActorID: &b.agent, IPAddress: "192.0.2.7", UserAgent: "agent/1"}, *b.origin)
}

func TestOtherTokensAreLookedUpInTheSameRoundTrip(t *testing.T) {
	t.Parallel()
	for name, perMinute := range map[string]int{"with a limit": limit, "without": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setupOn(t, testkit.Redis(t), perMinute).hydrated(t)
			own, gone := b.token(t, ""), b.token(t, "")
			require.NoError(t, b.revoke(t.Context(), gone.id))
			enter := func(presented issued) ([]revocation.Verdict, error) {
				c, _ := gin.CreateTestContext(httptest.NewRecorder())
				c.Request = httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", http.NoBody)
				c.Request.Header.Set("Authorization", "Bearer "+presented.raw)
				principal, err := b.guard.Verify(c)
				require.NoError(t, err)
				require.Zero(t, guard.PrincipalOf(c), "verified is not admitted")
				query := func(k issued) revocation.Query {
					return revocation.Query{TokenID: k.id, AgentID: b.agent, IssuedAt: k.at}
				}
				verdicts, err := b.guard.Enter(c, principal, query(gone), query(own))
				require.Equal(t, err == nil, guard.PrincipalOf(c).TokenID == presented.id)
				return verdicts, err
			}
			_, err := enter(own) // loads the script
			require.NoError(t, err)
			commands, pipelines := b.trips.commands.Load(), b.trips.pipelines.Load()
			verdicts, err := enter(own)
			require.NoError(t, err)
			require.Equal(t, []revocation.Verdict{revocation.Dead, revocation.Live}, verdicts)
			require.Equal(t, commands+1, b.trips.commands.Load())
			require.Equal(t, pipelines, b.trips.pipelines.Load())

			_, err = enter(gone)
			require.Equal(t, apperr.Unauthorized, apperr.CodeOf(err))
		})
	}
}

func TestWithoutAGoodTokenTheAnswerIs401(t *testing.T) {
	t.Parallel()
	b := setup(t).hydrated(t)
	good := b.token(t, "").raw
	for name, row := range map[string]struct {
		authorization []string
		challenge     string
	}{
		"no header":      {nil, `Bearer realm="agentidp"`},
		"another scheme": {[]string{"Basic YTpi"}, `Bearer realm="agentidp"`},
		"no JWT":         {[]string{"Bearer x"}, `Bearer realm="agentidp", error="invalid_token", error_description="the token is not a valid access token"`},
		"two headers":    {[]string{"Bearer " + good, "Bearer " + good}, `Bearer realm="agentidp", error="invalid_token", error_description="more than one Authorization header"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			res := b.patch(t, b.agent, row.authorization...)
			requireCode(t, res, apperr.Unauthorized)
			require.Equal(t, row.challenge, res.Header().Get("WWW-Authenticate"))
			requireRate(t, res, limit)
		})
	}
}

func TestOnlyAScopeOfRFC6749GoesIntoAChallenge(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		scope string // as Rego spells it
		shown bool
	}{
		"of another policy":     {`"agents:paint"`, true},
		"a quote":               {`"a\", error=\"b"`, false},
		"a backslash":           {`"a\\"`, false},
		"a line break":          {`"a\r\nSet-Cookie: b"`, false},
		"what is beyond ASCII":  {`"é"`, false},
		"a character to delete": {`"a\u007f"`, false},
		"nothing":               {`""`, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			policy := "package agentidp.authz\ndefault allow := false\ndefault reason := \"no\"\ndefault scope := " + row.scope + "\n"
			require.NoError(t, os.WriteFile(filepath.Join(dir, "p.rego"), []byte(policy), 0o600))
			b := setupWith(t, testkit.Redis(t), guard.Config{Issuer: issuer, Policy: authz.Config{PolicyDir: dir}}).hydrated(t)
			res := b.patch(t, b.agent, "Bearer "+b.token(t, "").raw)
			require.Equal(t, map[string]any{"reason": "no"}, requireCode(t, res, apperr.Forbidden))
			if row.shown {
				require.Equal(t, `Bearer realm="agentidp", error="insufficient_scope", scope="agents:paint"`, res.Header().Get("WWW-Authenticate"))
			} else {
				require.Empty(t, res.Header().Values("WWW-Authenticate"))
			}
		})
	}
}

func TestARevokedTokenIsRefused(t *testing.T) {
	t.Parallel()
	for name, revoke := range map[string]func(context.Context, bundle, issued) error{
		"by its id": func(ctx context.Context, b bundle, k issued) error {
			return b.revoke(ctx, k.id)
		},
		"with its agent": func(ctx context.Context, b bundle, _ issued) error {
			return b.store.SetCutoff(ctx, revocation.Cutoff{AgentID: b.agent, Revision: 2, Blocked: true})
		},
		"for it was issued before its agent came back": func(ctx context.Context, b bundle, k issued) error {
			return b.store.SetCutoff(ctx, revocation.Cutoff{AgentID: b.agent, Revision: 3, ValidAfter: k.at})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t).hydrated(t)
			token := b.token(t, authz.ScopeAgentsWrite)
			require.Equal(t, http.StatusOK, b.patch(t, b.agent, "Bearer "+token.raw).Code)
			require.NoError(t, revoke(t.Context(), b, token))
			for range 2 * limit {
				res := b.patch(t, b.agent, "Bearer "+token.raw)
				requireCode(t, res, apperr.Unauthorized)
				require.Equal(t, `Bearer realm="agentidp", error="invalid_token", error_description="the token was revoked"`, res.Header().Get("WWW-Authenticate"))
				requireRate(t, res, limit)
			}
		})
	}
}

func TestARevokedTokenDoesNotUseUpItsClientsRequests(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(*testing.T, bundle, issued){
		"by its id": func(t *testing.T, b bundle, stolen issued) {
			t.Helper()
			b.hydrated(t)
			require.NoError(t, b.revoke(t.Context(), stolen.id))
		},
		"as the token service says while redis is not whole": func(_ *testing.T, b bundle, _ issued) { b.tokens.revoked = true },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			stolen, own := b.token(t, authz.ScopeAgentsWrite), b.token(t, authz.ScopeAgentsWrite)
			prepare(t, b, stolen)
			for range 2 * limit {
				requireCode(t, b.patch(t, b.agent, "Bearer "+stolen.raw), apperr.Unauthorized)
			}
			b.tokens.revoked = false
			for remaining := limit - 1; remaining >= 0; remaining-- {
				res := b.patch(t, b.agent, "Bearer "+own.raw)
				require.Equal(t, http.StatusOK, res.Code)
				requireRate(t, res, remaining)
			}
			requireCode(t, b.patch(t, b.agent, "Bearer "+own.raw), apperr.RateLimitExceeded)
		})
	}
}

func TestTheLimitIsOfTheClientAndNotOfTheToken(t *testing.T) {
	t.Parallel()
	b := setup(t).hydrated(t)
	for i := range limit {
		res := b.patch(t, b.agent, "Bearer "+b.token(t, authz.ScopeAgentsWrite).raw)
		require.Equal(t, http.StatusOK, res.Code)
		requireRate(t, res, limit-1-i)
	}
	res := b.patch(t, b.agent, "Bearer "+b.token(t, authz.ScopeAgentsWrite).raw)
	requireCode(t, res, apperr.RateLimitExceeded)
	requireRate(t, res, 0)
	seconds, err := strconv.Atoi(res.Header().Get("Retry-After"))
	require.NoError(t, err)
	require.GreaterOrEqual(t, seconds, 1)
	require.LessOrEqual(t, seconds, 60)

	b.agent = uuid.New()
	require.Equal(t, http.StatusOK, b.patch(t, b.agent, "Bearer "+b.token(t, authz.ScopeAgentsWrite).raw).Code)
}

func TestALimitOfZeroIsOff(t *testing.T) {
	t.Parallel()
	b := setupOn(t, testkit.Redis(t), 0).hydrated(t)
	for range 2 * limit {
		res := b.patch(t, b.agent, "Bearer "+b.token(t, authz.ScopeAgentsWrite).raw)
		require.Equal(t, http.StatusOK, res.Code)
		require.Empty(t, res.Header().Values("X-RateLimit-Limit"))
	}
	require.Empty(t, b.patch(t, b.agent).Header().Values("X-RateLimit-Limit"))
}

func TestThePolicyDenies(t *testing.T) {
	t.Parallel()
	b := setup(t).hydrated(t)
	res := b.patch(t, b.agent, "Bearer "+b.token(t, "agents:read resume:read").raw)
	require.Equal(t, map[string]any{"reason": "scope agents:write is required"}, requireCode(t, res, apperr.Forbidden))
	require.Equal(t, `Bearer realm="agentidp", error="insufficient_scope", scope="agents:write"`, res.Header().Get("WWW-Authenticate"))
	requireRate(t, res, limit-1)

	res = b.patch(t, uuid.New(), "Bearer "+b.token(t, authz.ScopeAgentsWrite).raw)
	require.Contains(t, requireCode(t, res, apperr.Forbidden)["reason"], "same owner")
	require.Empty(t, res.Header().Values("WWW-Authenticate"), "no scope lacks")

	require.Equal(t, http.StatusOK, b.patch(t, uuid.New(), "Bearer "+b.token(t, authz.ScopeAgentsAdmin).raw).Code)
}

func TestThePolicyDecidesForClientAuthentication(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for of, status := range map[string]int{"c1": http.StatusOK, "": http.StatusOK, "c2": http.StatusForbidden} {
		req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/api/v1/token/revoke?client=c1&of="+of, nil)
		res := httptest.NewRecorder()
		b.router.ServeHTTP(res, req)
		require.Equal(t, status, res.Code, of)
	}
	require.Nil(t, b.origin.ActorID)
}

func TestWithoutTheMarkTheTokenServiceDecides(t *testing.T) {
	t.Parallel()
	b := setup(t)
	bearer := "Bearer " + b.token(t, authz.ScopeAgentsWrite).raw
	require.Equal(t, http.StatusOK, b.patch(t, b.agent, bearer).Code)
	b.tokens.revoked = true
	requireCode(t, b.patch(t, b.agent, bearer), apperr.Unauthorized)
	require.EqualValues(t, 2, b.tokens.asked.Load())

	b.tokens.err = errors.New("connection refused")
	res := b.patch(t, b.agent, bearer)
	requireCode(t, res, apperr.ServiceUnavailable)
	require.Equal(t, "1", res.Header().Get("Retry-After"))
	requireRate(t, res, limit)
}

func TestARedisThatRefusesWritesIsAsGoodAsNone(t *testing.T) {
	t.Parallel()
	for name, perMinute := range map[string]int{"with a limit": limit, "without": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setupOn(t, testkit.OpenRedis(t, testkit.RedisServer(t).URL()), perMinute).hydrated(t)
			token := b.token(t, authz.ScopeAgentsWrite)
			require.Equal(t, http.StatusOK, b.patch(t, b.agent, "Bearer "+token.raw).Code)
			require.NoError(t, b.rdb.ConfigSet(t.Context(), "min-replicas-to-write", "1").Err())
			for range 2 * limit {
				require.Equal(t, http.StatusOK, b.patch(t, b.agent, "Bearer "+token.raw).Code, "the limit is open")
			}
			require.EqualValues(t, 2*limit, b.tokens.asked.Load())
			require.Error(t, b.revoke(t.Context(), token.id))
			b.tokens.revoked = true
			requireCode(t, b.patch(t, b.agent, "Bearer "+token.raw), apperr.Unauthorized)
		})
	}
}

func TestWithoutRedisTheLimitIsOpenAndTheCheckForRevocationIsNot(t *testing.T) {
	t.Parallel()
	server := testkit.RedisServer(t)
	rdb, err := redisx.Open(redisx.Config{URL: config.Secret(server.URL())}, telemetry.Discard("test"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = rdb.Close() })
	b := setupOn(t, rdb, limit).hydrated(t)
	bearer := "Bearer " + b.token(t, authz.ScopeAgentsWrite).raw
	require.Equal(t, http.StatusOK, b.patch(t, b.agent, bearer).Code)

	server.Stop()
	for range 2 * limit {
		res := b.patch(t, b.agent, bearer)
		require.Equal(t, http.StatusOK, res.Code)
		requireRate(t, res, limit)
	}
	require.EqualValues(t, 2*limit, b.tokens.asked.Load())
	b.tokens.revoked = true
	requireCode(t, b.patch(t, b.agent, bearer), apperr.Unauthorized)
	b.tokens.err = errors.New("connection refused")
	requireCode(t, b.patch(t, b.agent, bearer), apperr.ServiceUnavailable)
}

func TestWithoutKeysNothingIsDecided(t *testing.T) {
	t.Parallel()
	b := setup(t).hydrated(t)
	b.tokens.err = errors.New("connection refused")
	require.Error(t, b.guard.Ready(t.Context()))
	requireCode(t, b.patch(t, b.agent, "Bearer "+b.token(t, "").raw), apperr.ServiceUnavailable)
}

func TestRunFetchesTheKeysAndEndsWithItsContext(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- b.guard.Run(ctx) }()
	require.Eventually(t, func() bool { return b.guard.Ready(ctx) == nil }, 5*time.Second, time.Millisecond)
	cancel()
	require.NoError(t, <-ended)
}

func TestNewRemoteRefusesABrokenPolicy(t *testing.T) {
	t.Parallel()
	cfg := guard.Config{Issuer: issuer, Policy: authz.Config{PolicyDir: t.TempDir()}}
	_, err := guard.NewRemote(t.Context(), cfg, tokenapi.NewClient(&tokenService{}), nil, telemetry.Discard("test"))
	require.ErrorContains(t, err, "no .rego file")
}

func TestAGuardWithKeysOfItsOwnIsReady(t *testing.T) {
	t.Parallel()
	authorizer, err := authz.New(t.Context(), authz.Config{}, telemetry.Discard("test").Log)
	require.NoError(t, err)
	rdb, tel := testkit.Redis(t), telemetry.Discard("test")
	clock := testkit.NewClock(time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC))
	b := setup(t)
	g := guard.New(guard.Options{
		Verifier: authn.NewVerifier(authn.VerifierConfig{
			Issuer: issuer, Audience: issuer,
			Keys:  testkit.StaticKeys{{ID: "k", Algorithm: authn.EdDSA, Public: b.key.Public()}},
			Clock: time.Now,
		}),
		Redis:       rdb,
		Limiter:     ratelimit.New(rdb, tel),
		Revocations: revocation.NewChecker(rdb, func(context.Context, revocation.Query) (bool, error) { return false, nil }),
		Authorizer:  authorizer,
		Config:      guard.Config{Issuer: issuer, RateLimitPerMinute: limit},
		Telemetry:   tel,
		Clock:       clock.Now,
	})
	require.NoError(t, g.Ready(t.Context()))
	b.router = routes(g, b.origin)
	require.Equal(t, http.StatusOK, b.patch(t, b.agent, "Bearer "+b.token(t, authz.ScopeAgentsWrite).raw).Code)
	require.Equal(t, strconv.FormatInt(clock.Now().Add(time.Minute).Unix(), 10), b.patch(t, b.agent).Header().Get("X-RateLimit-Reset"))
}

func TestAGivenUpRequestIsNotAdmitted(t *testing.T) {
	t.Parallel()
	b := setup(t).hydrated(t)
	bearer := "Bearer " + b.token(t, authz.ScopeAgentsWrite).raw
	require.Equal(t, http.StatusOK, b.patch(t, b.agent, bearer).Code)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	req := httptest.NewRequestWithContext(ctx, http.MethodPatch, "/api/v1/agents/"+b.agent.String(), nil)
	req.Header.Set("Authorization", bearer)
	res := httptest.NewRecorder()
	b.router.ServeHTTP(res, req)
	require.Equal(t, http.StatusServiceUnavailable, res.Code)
}

func TestConfig(t *testing.T) {
	t.Parallel()
	require.NoError(t, guard.Config{Issuer: "https://idp.example"}.Validate())
	require.NoError(t, guard.Config{Issuer: "http://127.0.0.1:8080/tenant", RateLimitPerMinute: 1}.Validate())
	require.NoError(t, guard.Config{Issuer: "https://idp.example/a-b/c.d/~e_F9", RateLimitPerMinute: ratelimit.MaxPerMinute}.Validate())
	for name, cfg := range map[string]guard.Config{
		"no scheme":        {Issuer: "idp.example"},
		"another scheme":   {Issuer: "ftp://idp.example"},
		"no host":          {Issuer: "https:///x"},
		"no URL":           {Issuer: "https://[::1"},
		"a query":          {Issuer: "https://idp.example?a=b"},
		"an empty query":   {Issuer: "https://idp.example?"},
		"a fragment":       {Issuer: "https://idp.example#a"},
		"a password":       {Issuer: "https://a:b@idp.example"},
		"a slash":          {Issuer: "https://idp.example/"},
		"a path and slash": {Issuer: "https://idp.example/tenant/"},
		"an empty segment": {Issuer: "https://idp.example/a//b"},
		"a dot segment":    {Issuer: "https://idp.example/a/../b"},
		"an escape":        {Issuer: "https://idp.example/a%2fb"},
		"a space":          {Issuer: "https://idp.example/a b"},
		"a colon":          {Issuer: "https://idp.example/:a"},
		"a star":           {Issuer: "https://idp.example/*a"},
		"an empty anchor":  {Issuer: "https://idp.example/a#"},
		"a negative limit": {Issuer: issuer, RateLimitPerMinute: -1},
		"a limit too high": {Issuer: issuer, RateLimitPerMinute: ratelimit.MaxPerMinute + 1},
	} {
		require.Error(t, cfg.Validate(), name)
	}
}
