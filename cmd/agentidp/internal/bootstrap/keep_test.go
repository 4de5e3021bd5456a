package bootstrap

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/registryapi"
)

const publicURL = "https://id.example.com"

// shelf is a Store in memory.
type shelf struct {
	kept    []Handover
	lost    []error // what the first calls of Save end with
	refuses error
	unsure  error
	onSave  func()
}

func (s *shelf) String() string { return "the shelf" }

func (s *shelf) Exists(context.Context) (bool, error) { return len(s.kept) > 0, s.unsure }

func (s *shelf) Save(_ context.Context, h Handover) error {
	if s.onSave != nil {
		s.onSave()
	}
	if len(s.lost) > 0 {
		err := s.lost[0]
		s.lost = s.lost[1:]
		return err
	}
	if s.refuses != nil {
		return s.refuses
	}
	s.kept = append(s.kept, h)
	return nil
}

func TestACredentialIsKeptOnceAndIssuedAnewOnlyWhereItIsGone(t *testing.T) {
	t.Parallel()
	fake, store := &services{}, &shelf{}
	clients := setup(t, fake, token)
	req := Request{Email: "a@example.com", Owner: "ops"}

	first, kept, err := clients.Keep(within(t, 10*time.Second), req, store, publicURL)
	require.NoError(t, err)
	require.True(t, kept)
	require.True(t, first.AgentCreated)
	require.Equal(t, []Handover{{URL: publicURL, ClientID: fake.operator.AgentID, ClientSecret: first.ClientSecret}}, store.kept)

	_, kept, err = clients.Keep(within(t, 10*time.Second), req, store, publicURL)
	require.NoError(t, err)
	require.False(t, kept)
	require.Len(t, fake.secrets, 1, "nothing is issued where a credential is kept")
	require.Len(t, fake.requests, 1, "nothing is even asked")

	store.kept = nil
	again, kept, err := clients.Keep(within(t, 10*time.Second), req, store, publicURL)
	require.NoError(t, err)
	require.True(t, kept)
	require.False(t, again.AgentCreated)
	require.Len(t, fake.secrets, 2)
	require.Equal(t, first.Agent.AgentID, store.kept[0].ClientID)
	require.Equal(t, fake.secrets[1], store.kept[0].ClientSecret.Reveal())
	require.Empty(t, fake.revoked, "the older one may be in use")
}

func TestACredentialThatCannotBeKeptIsRevoked(t *testing.T) {
	t.Parallel()
	full := errors.New("no room")
	away := apperr.Unavailable(&net.OpError{Op: "dial", Err: errors.New("refused")})
	for name, test := range map[string]struct {
		lost    []error
		refuses error
		fails   bool
	}{
		"the store refuses it":                        {nil, full, true},
		"another run was faster":                      {nil, errKept, false},
		"the store was not reached, and refuses it":   {[]error{away}, full, true},
		"another run was faster than the lost answer": {[]error{apperr.Unavailable(io.EOF)}, errKept, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fake := &services{}
			ctx, cancel := context.WithCancel(t.Context())
			store := &shelf{lost: test.lost, refuses: test.refuses, onSave: cancel} // the run is told to stop just then
			result, kept, err := setup(t, fake, token).Keep(ctx, Request{Email: "a@example.com", Owner: "ops"}, store, publicURL)
			require.False(t, kept)
			require.False(t, result.Issued())
			require.Len(t, fake.revoked, 1)
			require.Equal(t, fake.operator.AgentID, fake.revoked[0].AgentID)
			require.NotEqual(t, uuid.Nil, fake.revoked[0].CredentialID)
			if test.fails {
				require.ErrorIs(t, err, test.refuses)
				return
			}
			require.NoError(t, err)
		})
	}
}

func TestACredentialThatMayBeKeptIsNotRevoked(t *testing.T) {
	t.Parallel()
	full := errors.New("no room")
	fake := &services{}
	store := &shelf{lost: []error{apperr.Unavailable(io.EOF)}, refuses: full}
	result, kept, err := setup(t, fake, token).Keep(within(t, 10*time.Second), Request{Email: "a@example.com", Owner: "ops"}, store, publicURL)
	require.False(t, kept)
	require.False(t, result.Issued())
	require.ErrorIs(t, err, full)
	require.Empty(t, fake.revoked)
	require.Len(t, fake.live, 1)
	for id := range fake.live {
		require.ErrorContains(t, err, "nobody knows whether the shelf holds the operator's credential "+id.String())
	}
	require.ErrorContains(t, err, fake.operator.AgentID.String())
}

func TestNothingIsIssuedForAPlaceThatCannotBeLookedAt(t *testing.T) {
	t.Parallel()
	fake := &services{}
	_, _, err := setup(t, fake, token).Keep(within(t, time.Second), Request{}, &shelf{unsure: errors.New("forbidden")}, publicURL)
	require.ErrorContains(t, err, "forbidden")
	require.Empty(t, fake.secrets)
}

func TestAnEnvFileIsForItsOwnerAShellAndOneRun(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "operator.env")
	file := EnvFile(path)
	exists, err := file.Exists(t.Context())
	require.NoError(t, err)
	require.False(t, exists)
	handover := Handover{URL: "https://id.example.com/it's", ClientID: uuid.New(), ClientSecret: "sk_live_x"}
	require.NoError(t, file.Save(t.Context(), handover))

	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	out, err := exec.CommandContext(t.Context(), "sh", "-c", `. "$1"; printf '%s %s %s' "$AGENTIDP_URL" "$AGENTIDP_CLIENT_ID" "$AGENTIDP_CLIENT_SECRET"`, "sh", path).Output()
	require.NoError(t, err)
	require.Equal(t, handover.URL+" "+handover.ClientID.String()+" sk_live_x", string(out))

	exists, err = file.Exists(t.Context())
	require.NoError(t, err)
	require.True(t, exists)
	before, err := os.ReadFile(path)
	require.NoError(t, err)
	require.ErrorIs(t, file.Save(t.Context(), Handover{}), errKept)
	after, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(before), string(after))
	left, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, left, 1, "no half-written file stays")
}

func TestAnEnvFileThatCannotBeWrittenIsNoticedBefore(t *testing.T) {
	t.Parallel()
	fake := &services{}
	file := EnvFile(filepath.Join(t.TempDir(), "nowhere", "operator.env"))
	_, _, err := setup(t, fake, token).Keep(within(t, time.Second), Request{}, file, publicURL)
	require.ErrorContains(t, err, "operator.env")
	require.Empty(t, fake.secrets)
}

// apiServer is the part of Kubernetes that keeps Secrets.
type apiServer struct {
	mu      sync.Mutex
	secrets map[string]map[string]any
	denies  string                    // a method that RBAC does not allow
	made    func(http.ResponseWriter) // what the first Secret that is made is answered with
}

func (a *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	answer := func(status int, message string) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]any{"kind": "Status", "message": message})
	}
	const all = "/api/v1/namespaces/idp/secrets"
	switch {
	case r.Header.Get("Authorization") != "Bearer the-pod":
		answer(http.StatusUnauthorized, "Unauthorized")
	case r.Method == a.denies:
		answer(http.StatusForbidden, "secrets is forbidden")
	case r.Method == http.MethodGet && a.secrets[strings.TrimPrefix(r.URL.Path, all+"/")] != nil:
		secret := maps.Clone(a.secrets[strings.TrimPrefix(r.URL.Path, all+"/")])
		data := map[string][]byte{}
		for key, value := range secret["stringData"].(map[string]any) {
			data[key] = []byte(value.(string))
		}
		secret["data"] = data
		delete(secret, "stringData")
		_ = json.NewEncoder(w).Encode(secret)
	case r.Method == http.MethodPost && r.URL.Path == all:
		var secret map[string]any
		_ = json.NewDecoder(r.Body).Decode(&secret)
		name, _ := secret["metadata"].(map[string]any)["name"].(string)
		if a.secrets[name] != nil {
			answer(http.StatusConflict, "already exists")
			return
		}
		a.secrets[name] = secret
		if made := a.made; made != nil {
			a.made = nil
			made(w)
			return
		}
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(secret)
	default:
		answer(http.StatusNotFound, "not found")
	}
}

// cluster is what a pod sees of it.
func cluster(t *testing.T, api *apiServer) (dir string, environ func(string) (string, bool)) {
	t.Helper()
	api.secrets = map[string]map[string]any{}
	server := httptest.NewTLSServer(api)
	t.Cleanup(server.Close)
	dir = t.TempDir()
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	for name, content := range map[string]string{"namespace": "idp", "token": "the-pod\n", "ca.crt": string(authority)} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	address, err := url.Parse(server.URL)
	require.NoError(t, err)
	return dir, func(key string) (string, bool) {
		value, set := map[string]string{"KUBERNETES_SERVICE_HOST": address.Hostname(), "KUBERNETES_SERVICE_PORT": address.Port()}[key]
		return value, set
	}
}

func TestAKubernetesSecretIsCreatedAndNeverChanged(t *testing.T) {
	t.Parallel()
	api := &apiServer{}
	dir, environ := cluster(t, api)
	store, err := NewKubernetesSecret("operator-credential", dir, environ)
	require.NoError(t, err)
	require.Equal(t, "secret/operator-credential in namespace idp", store.String())
	fake := &services{}
	clients := setup(t, fake, token)

	_, kept, err := clients.Keep(within(t, 10*time.Second), Request{Email: "a@example.com", Owner: "ops"}, store, publicURL)
	require.NoError(t, err)
	require.True(t, kept)
	secret := api.secrets["operator-credential"]
	require.Equal(t, map[string]any{
		"AGENTIDP_URL": publicURL, "AGENTIDP_CLIENT_ID": fake.operator.AgentID.String(), "AGENTIDP_CLIENT_SECRET": fake.secrets[0],
	}, secret["stringData"])

	_, kept, err = clients.Keep(within(t, 10*time.Second), Request{}, store, publicURL)
	require.NoError(t, err)
	require.False(t, kept)
	require.ErrorIs(t, store.Save(t.Context(), Handover{}), errKept)
	require.Equal(t, secret, api.secrets["operator-credential"])
}

func TestASecretThatKubernetesMadeWithoutAnAnswerIsKept(t *testing.T) {
	t.Parallel()
	dropped := func(http.ResponseWriter) { panic(http.ErrAbortHandler) } // the connection ends without a word
	for name, made := range map[string]func(w http.ResponseWriter, api *apiServer, stop context.CancelFunc){
		"the connection is lost": func(w http.ResponseWriter, _ *apiServer, _ context.CancelFunc) { dropped(w) },
		"a proxy waits no longer": func(w http.ResponseWriter, _ *apiServer, _ context.CancelFunc) {
			w.WriteHeader(http.StatusGatewayTimeout)
		},
		"the run's time is over": func(w http.ResponseWriter, _ *apiServer, stop context.CancelFunc) { stop(); dropped(w) },
		"it was not made, and the next one is": func(w http.ResponseWriter, api *apiServer, _ context.CancelFunc) {
			clear(api.secrets)
			dropped(w)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := &apiServer{}
			dir, environ := cluster(t, api)
			store, err := NewKubernetesSecret("operator-credential", dir, environ)
			require.NoError(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			t.Cleanup(cancel)
			api.made = func(w http.ResponseWriter) { made(w, api, cancel) }
			fake := &services{}
			result, kept, err := setup(t, fake, token).Keep(ctx, Request{Email: "a@example.com", Owner: "ops"}, store, publicURL)
			require.NoError(t, err)
			require.True(t, kept)
			require.Nil(t, api.made)
			require.Empty(t, fake.revoked)
			require.Len(t, fake.secrets, 1)
			data := api.secrets["operator-credential"]["stringData"].(map[string]any)
			require.Equal(t, result.ClientSecret.Reveal(), data["AGENTIDP_CLIENT_SECRET"])
		})
	}
}

func TestWhatKubernetesRefusesIsTold(t *testing.T) {
	t.Parallel()
	api := &apiServer{denies: http.MethodPost}
	dir, environ := cluster(t, api)
	store, err := NewKubernetesSecret("operator-credential", dir, environ)
	require.NoError(t, err)
	fake := &services{}
	_, _, err = setup(t, fake, token).Keep(within(t, 10*time.Second), Request{Email: "a@example.com", Owner: "ops"}, store, publicURL)
	require.ErrorContains(t, err, "403 Forbidden: secrets is forbidden")
	require.Len(t, fake.revoked, 1)

	require.NoError(t, os.WriteFile(filepath.Join(dir, "token"), []byte("another"), 0o600))
	_, err = store.Exists(t.Context())
	require.ErrorContains(t, err, "401", "the token is read anew for each call")
	require.NoError(t, os.Remove(filepath.Join(dir, "token")))
	_, err = store.Exists(t.Context())
	require.ErrorContains(t, err, "token")

	_, err = NewKubernetesSecret("x", dir, func(string) (string, bool) { return "", false })
	require.ErrorContains(t, err, "KUBERNETES_SERVICE_HOST")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "ca.crt"), nil, 0o600))
	_, err = NewKubernetesSecret("x", dir, environ)
	require.ErrorContains(t, err, "certificate authority")
	_, err = NewKubernetesSecret("x", t.TempDir(), environ)
	require.ErrorContains(t, err, "namespace")
}

func TestTheCommandKeepsTheCredentialWhereItIsToldTo(t *testing.T) {
	t.Parallel()
	fake := &services{}
	server := httptest.NewServer(fake)
	t.Cleanup(server.Close)
	values := map[string]string{"REGISTRY_INTERNAL_URL": server.URL, "CREDENTIALS_INTERNAL_URL": server.URL, "INTERNAL_API_TOKEN": token}
	run := func(args ...string) (string, error) {
		var out bytes.Buffer
		cmd := Command(&out, func(key string) (string, bool) { value, set := values[key]; return value, set })
		cmd.SetArgs(args)
		err := cmd.ExecuteContext(within(t, 10*time.Second))
		return out.String(), err
	}
	path := filepath.Join(t.TempDir(), "operator.env")
	_, err := run("--env-file", path)
	require.ErrorContains(t, err, "AGENTIDP_URL")
	require.Empty(t, fake.secrets)

	values["AGENTIDP_URL"] = publicURL
	said, err := run("--env-file", path)
	require.NoError(t, err)
	require.Contains(t, said, "The operator was created")
	require.Contains(t, said, path)
	require.NotContains(t, said, "sk_live")
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Contains(t, string(content), "AGENTIDP_URL='"+publicURL+"'\n")
	require.Contains(t, string(content), "AGENTIDP_CLIENT_SECRET='"+fake.secrets[0]+"'\n")

	said, err = run("--env-file", path)
	require.NoError(t, err)
	require.Contains(t, said, "Nothing was changed")
	require.Len(t, fake.secrets, 1)
	_, err = run("--env-file", path, "--kubernetes-secret", "x")
	require.Error(t, err)
	_, err = run("--kubernetes-secret", "x")
	require.ErrorContains(t, err, "KUBERNETES_SERVICE_HOST")
}

func TestTheReportOfAKeptCredentialShowsNoSecret(t *testing.T) {
	t.Parallel()
	agent := registryapi.Agent{AgentID: uuid.New(), Email: "a@example.com"}
	var out bytes.Buffer
	require.NoError(t, Result{Agent: agent, CredentialID: uuid.New(), ClientSecret: "sk_live_x"}.WriteKept(&out, EnvFile("operator.env")))
	require.Contains(t, out.String(), "a new credential was issued")
	require.Contains(t, out.String(), "kept in operator.env")
	require.NotContains(t, out.String(), "sk_live")
}
