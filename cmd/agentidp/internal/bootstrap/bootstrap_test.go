package bootstrap

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/credentialsapi"
	"github.com/sentryagent/agentidp/pkg/mtls"
	"github.com/sentryagent/agentidp/pkg/peer"
	"github.com/sentryagent/agentidp/pkg/registryapi"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/pkg/testkit"
)

const token = "internal-token"

// services stands for the internal APIs of registry and credentials.
type services struct {
	mu          sync.Mutex
	operator    *registryapi.Agent
	secrets     []string
	unavailable int // how many calls are still refused
	lost        int // how many credentials are still made without an answer
	requests    []registryapi.BootstrapRequest
	revoked     []credentialsapi.OperatorRevocation
	live        map[uuid.UUID]bool // every credential that was made: false is a revoked one
}

func (s *services) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	fail := func(err *apperr.Error) {
		w.WriteHeader(err.Code.Status())
		_ = json.NewEncoder(w).Encode(err)
	}
	if r.Header.Get("Authorization") != "Bearer "+token {
		fail(apperr.New(apperr.Unauthorized, "no"))
		return
	}
	if s.unavailable > 0 {
		s.unavailable--
		fail(apperr.Unavailable(nil))
		return
	}
	switch r.Method + " " + r.URL.Path {
	case "POST /internal/v1/bootstrap":
		s.bootstrap(w, r, fail)
	case "POST /internal/v1/operator-credential":
		if s.operator.Status != registryapi.StatusActive {
			fail(apperr.New(apperr.AgentNotActive, "not active"))
			return
		}
		s.credential(w, r)
	case "POST /internal/v1/operator-credential/revoke":
		var req credentialsapi.OperatorRevocation
		_ = json.NewDecoder(r.Body).Decode(&req)
		if _, made := s.live[req.CredentialID]; !made {
			fail(apperr.New(apperr.CredentialNotFound, "no"))
			return
		}
		s.live[req.CredentialID] = false
		s.revoked = append(s.revoked, req)
		w.WriteHeader(http.StatusNoContent)
	case "POST /internal/v1/secrets/verify":
		var req struct {
			ClientID uuid.UUID
			Secret   string
		}
		_ = json.NewDecoder(r.Body).Decode(&req)
		valid := len(s.secrets) > 0 && req.Secret == s.secrets[len(s.secrets)-1]
		answer := credentialsapi.VerifyResponse{Valid: valid}
		if !valid {
			answer.Reason = credentialsapi.ReasonInvalidSecret
		}
		_ = json.NewEncoder(w).Encode(answer)
	default:
		fail(apperr.New(apperr.NotFound, "no"))
	}
}

func (s *services) bootstrap(w http.ResponseWriter, r *http.Request, fail func(*apperr.Error)) {
	var req registryapi.BootstrapRequest
	_ = json.NewDecoder(r.Body).Decode(&req)
	s.requests = append(s.requests, req)
	if !strings.Contains(req.Email, "@") {
		fail(apperr.Validation(apperr.FieldError{Field: "email", Reason: "must be an address"}))
		return
	}
	created := s.operator == nil || req.NewOperator && s.operator.Status != registryapi.StatusActive
	if created && s.operator != nil && s.operator.Email == req.Email {
		fail(apperr.New(apperr.AgentAlreadyExists, "taken"))
		return
	}
	if created {
		s.operator = &registryapi.Agent{AgentID: uuid.New(), Email: req.Email, Owner: req.Owner, Status: registryapi.StatusActive}
		w.WriteHeader(http.StatusCreated)
	}
	_ = json.NewEncoder(w).Encode(registryapi.BootstrapResponse{Agent: *s.operator, Created: created})
}

func (s *services) credential(w http.ResponseWriter, r *http.Request) {
	var req credentialsapi.OperatorCredentialRequest
	_ = json.NewDecoder(r.Body).Decode(&req)
	_, taken := s.live[req.CredentialID]
	if taken || req.OnlyIfNone && slices.Contains(slices.Collect(maps.Values(s.live)), true) {
		_ = json.NewEncoder(w).Encode(credentialsapi.OperatorCredentialWire{Exists: true})
		return
	}
	s.secrets = append(s.secrets, "sk_live_"+strings.ReplaceAll(uuid.NewString(), "-", ""))
	if s.live == nil {
		s.live = map[uuid.UUID]bool{}
	}
	s.live[req.CredentialID] = true
	if s.lost > 0 {
		s.lost--
		panic(http.ErrAbortHandler) // the connection ends without a word
	}
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(credentialsapi.OperatorCredentialWire{
		CredentialID: &req.CredentialID, ClientID: &req.AgentID, ClientSecret: s.secrets[len(s.secrets)-1],
	})
}

func setup(t *testing.T, services *services, token string) Clients {
	t.Helper()
	server := httptest.NewServer(services)
	t.Cleanup(server.Close)
	settings, err := LoadSettings(testkit.Environment(map[string]string{
		"REGISTRY_INTERNAL_URL": server.URL, "CREDENTIALS_INTERNAL_URL": server.URL, "INTERNAL_API_TOKEN": token,
	}))
	require.NoError(t, err)
	clients, err := NewClients(settings, telemetry.Discard("test"))
	require.NoError(t, err)
	return clients
}

func within(t *testing.T, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

func TestTheFirstRunMakesAnOperatorWithItsCredential(t *testing.T) {
	t.Parallel()
	fake := &services{}
	clients := setup(t, fake, token)

	result, err := clients.Run(within(t, 10*time.Second), Request{Email: "a@example.com", Owner: "ops", DeploymentEnv: "production"})

	require.NoError(t, err)
	require.True(t, result.AgentCreated)
	require.True(t, result.Issued())
	require.Equal(t, fake.secrets[0], result.ClientSecret.Reveal())
	require.Equal(t, []registryapi.BootstrapRequest{{Email: "a@example.com", Owner: "ops", DeploymentEnv: "production"}}, fake.requests)
	valid, err := clients.Valid(within(t, 10*time.Second), result.Agent.AgentID, result.ClientSecret)
	require.NoError(t, err)
	require.True(t, valid)
	valid, err = clients.Valid(within(t, 10*time.Second), result.Agent.AgentID, "another")
	require.NoError(t, err)
	require.False(t, valid)
}

func TestASecondRunChangesNothing(t *testing.T) {
	t.Parallel()
	fake := &services{}
	clients := setup(t, fake, token)
	first, err := clients.Run(within(t, 10*time.Second), Request{Email: "a@example.com", Owner: "ops"})
	require.NoError(t, err)

	second, err := clients.Run(within(t, 10*time.Second), Request{Email: "b@example.com", Owner: "others"})

	require.NoError(t, err)
	require.Equal(t, first.Agent, second.Agent)
	require.False(t, second.AgentCreated)
	require.False(t, second.Issued())
	require.Len(t, fake.secrets, 1)
}

func TestARunThatFoundNoCredentialIssuesOne(t *testing.T) {
	t.Parallel()
	fake := &services{operator: &registryapi.Agent{AgentID: uuid.New(), Email: "a@example.com", Status: registryapi.StatusActive}}

	result, err := setup(t, fake, token).Run(within(t, 10*time.Second), Request{Email: "a@example.com", Owner: "ops"})

	require.NoError(t, err, "an earlier run may have ended between the agent and its credential")
	require.False(t, result.AgentCreated)
	require.True(t, result.Issued())
}

func TestALostSecretIsReplacedOnDemand(t *testing.T) {
	t.Parallel()
	fake := &services{}
	clients := setup(t, fake, token)
	first, err := clients.Run(within(t, 10*time.Second), Request{Email: "a@example.com", Owner: "ops"})
	require.NoError(t, err)

	again, err := clients.Run(within(t, 10*time.Second), Request{Email: "a@example.com", Owner: "ops", NewSecret: true})

	require.NoError(t, err)
	require.True(t, again.Issued())
	require.NotEqual(t, first.ClientSecret, again.ClientSecret)
	require.Equal(t, first.Agent.AgentID, again.Agent.AgentID)
}

func TestALostOperatorIsReplacedOnDemand(t *testing.T) {
	t.Parallel()
	for _, status := range []string{registryapi.StatusSuspended, registryapi.StatusDecommissioned} {
		t.Run(status, func(t *testing.T) {
			t.Parallel()
			fake := &services{operator: &registryapi.Agent{AgentID: uuid.New(), Email: "a@example.com", Status: status}}
			env := map[string]string{"INTERNAL_API_TOKEN": token}
			server := httptest.NewServer(fake)
			t.Cleanup(server.Close)
			env["REGISTRY_INTERNAL_URL"], env["CREDENTIALS_INTERNAL_URL"] = server.URL, server.URL
			run := func(args ...string) (string, error) {
				var out bytes.Buffer
				cmd := Command(&out, func(key string) (string, bool) { value, set := env[key]; return value, set })
				cmd.SetArgs(args)
				err := cmd.ExecuteContext(within(t, 10*time.Second))
				return out.String(), err
			}
			for _, args := range [][]string{nil, {"--new-secret"}} {
				_, err := run(args...)
				require.ErrorContains(t, err, "is "+status+", and --new-operator makes another")
			}
			_, err := run("--new-operator", "--email", "a@example.com")
			require.ErrorContains(t, err, "choose another with --email")
			require.Empty(t, fake.secrets)

			out, err := run("--new-operator", "--email", "b@example.com")
			require.NoError(t, err)
			require.Contains(t, out, "The operator was created: b@example.com")
			require.Len(t, fake.secrets, 1)
			require.Contains(t, out, fake.secrets[0])
		})
	}
}

func TestServicesThatComeUpLaterAreWaitedFor(t *testing.T) {
	t.Parallel()
	fake := &services{unavailable: 2}
	result, err := setup(t, fake, token).Run(within(t, 30*time.Second), Request{Email: "a@example.com", Owner: "ops"})
	require.NoError(t, err)
	require.True(t, result.Issued())
}

func TestACredentialWhoseAnswerWasLostIsRevokedAndReplaced(t *testing.T) {
	t.Parallel()
	for name, newSecret := range map[string]bool{"the first credential": false, "a further one": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fake := &services{lost: 2}
			result, err := setup(t, fake, token).Run(within(t, 30*time.Second), Request{Email: "a@example.com", Owner: "ops", NewSecret: newSecret})
			require.NoError(t, err)
			require.True(t, result.Issued())
			require.Equal(t, fake.secrets[2], result.ClientSecret.Reveal())
			require.Len(t, fake.live, 3)
			for id, live := range fake.live {
				require.Equal(t, id == result.CredentialID, live, "only the one that somebody knows may live")
			}
		})
	}
}

// silent makes credentials and never says so, until the run is told to stop.
type silent struct {
	Credentials

	stop context.CancelFunc
}

func (s silent) OperatorCredential(
	ctx context.Context, req credentialsapi.OperatorCredentialRequest,
) (credentialsapi.OperatorCredential, error) {
	_, _ = s.Credentials.OperatorCredential(ctx, req)
	s.stop()
	return credentialsapi.OperatorCredential{}, apperr.Unavailable(nil)
}

func TestARunThatEndsInDoubtLeavesNoCredential(t *testing.T) {
	t.Parallel()
	fake := &services{}
	clients := setup(t, fake, token)
	ctx, cancel := context.WithCancel(within(t, 30*time.Second))
	clients.Credentials = silent{clients.Credentials, cancel}
	_, err := clients.Run(ctx, Request{Email: "a@example.com", Owner: "ops"})
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
	require.Len(t, fake.secrets, 1)
	require.NotContains(t, slices.Collect(maps.Values(fake.live)), true)
}

// unreached is asked where nobody listens, until the run is told to stop.
type unreached struct {
	Credentials

	stop    context.CancelFunc
	revoked int
}

func (u *unreached) OperatorCredential(
	ctx context.Context, req credentialsapi.OperatorCredentialRequest,
) (credentialsapi.OperatorCredential, error) {
	defer u.stop()
	return u.Credentials.OperatorCredential(ctx, req)
}

func (u *unreached) RevokeOperatorCredential(context.Context, credentialsapi.OperatorRevocation) error {
	u.revoked++
	return nil
}

func TestWhatWasNeverSentIsNotRevoked(t *testing.T) {
	t.Parallel()
	gone := httptest.NewServer(nil)
	gone.Close()
	clients := setup(t, &services{}, token)
	settings := Settings{RegistryURL: config.URL(gone.URL), CredentialsURL: config.URL(gone.URL), Token: token}
	nobody, err := NewClients(settings, telemetry.Discard("test"))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(within(t, 30*time.Second))
	credentials := &unreached{Credentials: nobody.Credentials, stop: cancel}
	clients.Credentials = credentials
	_, err = clients.Run(ctx, Request{Email: "a@example.com", Owner: "ops"})
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
	require.Zero(t, credentials.revoked)
}

// refusing fails so many times before it asks.
type refusing struct {
	Credentials

	times int
}

func (r *refusing) OperatorCredential(
	ctx context.Context, req credentialsapi.OperatorCredentialRequest,
) (credentialsapi.OperatorCredential, error) {
	if r.times--; r.times >= 0 {
		return credentialsapi.OperatorCredential{}, apperr.Unavailable(nil)
	}
	return r.Credentials.OperatorCredential(ctx, req)
}

func TestACredentialOfSomebodyElseIsLeftAlone(t *testing.T) {
	t.Parallel()
	fake := &services{}
	clients := setup(t, fake, token)
	first, err := clients.Run(within(t, 10*time.Second), Request{Email: "a@example.com", Owner: "ops"})
	require.NoError(t, err)
	clients.Credentials = &refusing{clients.Credentials, 1} // after which nobody knows whether one was made
	second, err := clients.Run(within(t, 30*time.Second), Request{Email: "a@example.com", Owner: "ops"})
	require.NoError(t, err)
	require.False(t, second.Issued())
	require.Equal(t, map[uuid.UUID]bool{first.CredentialID: true}, fake.live)
}

func TestFailuresAreTold(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		fake    *services
		token   string
		email   string
		want    apperr.Code
		refused bool
	}{
		"services that stay away":     {&services{unavailable: 1 << 30}, token, "a@example.com", apperr.ServiceUnavailable, false},
		"an email that is not one":    {&services{}, token, "nobody", apperr.ValidationError, false},
		"a token that nobody accepts": {&services{}, "wrong", "a@example.com", apperr.ServiceUnavailable, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := setup(t, test.fake, test.token).Run(within(t, time.Second), Request{Email: test.email, Owner: "ops"})
			require.Equal(t, test.want, apperr.CodeOf(err))
			require.Equal(t, test.refused, errors.Is(err, peer.ErrTokenRefused))
			require.Empty(t, test.fake.secrets)
		})
	}
}

// brokenCredentials answers with something that is no credential.
type brokenCredentials struct{ Credentials }

func (brokenCredentials) OperatorCredential(
	context.Context, credentialsapi.OperatorCredentialRequest,
) (credentialsapi.OperatorCredential, error) {
	return credentialsapi.OperatorCredential{}, nil
}

func TestAnAnswerWithoutASecretIsNotTakenForOne(t *testing.T) {
	t.Parallel()
	clients := setup(t, &services{}, token)
	clients.Credentials = brokenCredentials{clients.Credentials}
	_, err := clients.Run(within(t, 10*time.Second), Request{Email: "a@example.com", Owner: "ops"})
	require.ErrorContains(t, err, "holds no credential")
}

func TestSettingsThatAreMissingOrWrongAreNamed(t *testing.T) {
	t.Parallel()
	_, err := LoadSettings(testkit.Environment(nil))
	require.EqualError(t, err, "configuration: REGISTRY_INTERNAL_URL: is required; CREDENTIALS_INTERNAL_URL: is required; INTERNAL_API_TOKEN: is required")

	_, err = LoadSettings(testkit.Environment(map[string]string{
		"REGISTRY_INTERNAL_URL": "registry:9090", "CREDENTIALS_INTERNAL_URL": "ftp://credentials", "INTERNAL_API_TOKEN": token,
	}))
	require.ErrorContains(t, err, "REGISTRY_INTERNAL_URL")
	require.ErrorContains(t, err, "CREDENTIALS_INTERNAL_URL")
}

func TestWithACertificateEveryServiceIsCalledByTLS(t *testing.T) {
	t.Parallel()
	given := Settings{
		RegistryURL: "https://registry:9090", CredentialsURL: "http://credentials:9090", TLS: mtls.Config{CertFile: "tls.crt"},
	}
	err := given.Validate()
	require.ErrorContains(t, err, "CREDENTIALS_INTERNAL_URL: must be an https URL")
	require.NotContains(t, err.Error(), "REGISTRY_INTERNAL_URL")
	given.CredentialsURL = "HTTP://credentials:9090"
	require.ErrorContains(t, given.Validate(), "CREDENTIALS_INTERNAL_URL: must be an https URL")
	given.CredentialsURL = "https://credentials:9090"
	require.NoError(t, given.Validate())
}

func TestTheReportShowsASecretOnceAndOnlyIfThereIsOne(t *testing.T) {
	t.Parallel()
	agent := registryapi.Agent{AgentID: uuid.New(), Email: "a@example.com", Owner: "ops"}
	issued := Result{Agent: agent, AgentCreated: true, CredentialID: uuid.New(), ClientSecret: "sk_live_x"}
	replaced := Result{Agent: agent, CredentialID: uuid.New(), ClientSecret: "sk_live_y"}
	unchanged := Result{Agent: agent}
	text := func(r Result) string {
		var out bytes.Buffer
		require.NoError(t, r.WriteText(&out))
		return out.String()
	}

	require.Contains(t, text(issued), "The operator was created")
	require.Contains(t, text(issued), "sk_live_x")
	require.Contains(t, text(issued), agent.AgentID.String())
	require.Contains(t, text(replaced), "new credential")
	require.Contains(t, text(replaced), "sk_live_y")
	require.Contains(t, text(unchanged), "Nothing was changed")
	require.NotContains(t, text(unchanged), "sk_live")

	var out bytes.Buffer
	require.NoError(t, issued.WriteJSON(&out))
	require.JSONEq(t, `{"clientId":"`+agent.AgentID.String()+`","clientSecret":"sk_live_x","credentialId":"`+
		issued.CredentialID.String()+`","email":"a@example.com","owner":"ops","agentCreated":true,"credentialCreated":true}`, out.String())
	out.Reset()
	require.NoError(t, unchanged.WriteJSON(&out))
	require.JSONEq(t, `{"clientId":"`+agent.AgentID.String()+
		`","email":"a@example.com","owner":"ops","agentCreated":false,"credentialCreated":false}`, out.String())
}
