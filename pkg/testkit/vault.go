package testkit

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
)

// Vault stands for a Vault server as the credentials service sees it: a KV engine of version 2 at "secret", tokens, and a
// Kubernetes login at "auth/kubernetes". Its answers are those of Vault's documentation; the tests of the service's client
// hold it against a real server where there is one.
type Vault struct {
	URL   string // VAULT_ADDR
	Token string // of the operator of the tests: it never ends

	mu      sync.Mutex
	away    bool
	tokens  map[string]*vaultToken
	roles   map[string]string // role → the service account token that it takes
	lease   time.Duration
	entries map[string][]vaultVersion // path below the mount → versions, from 1
}

type vaultToken struct {
	lasts time.Duration // 0 for ever
	ends  time.Time
}

type vaultVersion struct {
	data               json.RawMessage
	deleted, destroyed bool
}

// StartVault starts one for the test, with the role "agentidp" for the service account token that is given.
func StartVault(tb testing.TB, serviceAccount string) *Vault {
	tb.Helper()
	v := &Vault{
		Token: "root-" + uuid.NewString(), tokens: map[string]*vaultToken{}, lease: time.Hour,
		roles: map[string]string{"agentidp": serviceAccount}, entries: map[string][]vaultVersion{},
	}
	v.tokens[v.Token] = &vaultToken{}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/auth/kubernetes/login", v.login)
	mux.HandleFunc("GET /v1/auth/token/lookup-self", v.known(v.lookup))
	mux.HandleFunc("POST /v1/auth/token/renew-self", v.known(v.renew))
	mux.HandleFunc("POST /v1/auth/token/revoke", v.known(v.revoke))
	mux.HandleFunc("POST /v1/secret/data/{path...}", v.known(v.write))
	mux.HandleFunc("GET /v1/secret/data/{path...}", v.known(v.read))
	mux.HandleFunc("DELETE /v1/secret/data/{path...}", v.known(v.remove))
	mux.HandleFunc("POST /v1/secret/destroy/{path...}", v.known(v.destroy))
	mux.HandleFunc("GET /v1/secret/metadata/{path...}", v.known(v.describe))
	mux.HandleFunc("DELETE /v1/secret/metadata/{path...}", v.known(v.forget))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if v.isAway() {
			vaultErrors(w, http.StatusServiceUnavailable, "Vault is sealed")
			return
		}
		mux.ServeHTTP(w, r)
	}))
	tb.Cleanup(server.Close)
	v.URL = server.URL
	return v
}

// Seal has it refuse everything, as a sealed one does, until Unseal.
func (v *Vault) Seal() { v.setAway(true) }

// Unseal has it answer again.
func (v *Vault) Unseal() { v.setAway(false) }

func (v *Vault) setAway(away bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.away = away
}

func (v *Vault) isAway() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.away
}

// NewToken makes one that lasts for so long after each renewal.
func (v *Vault) NewToken(lasts time.Duration) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.newToken(lasts)
}

func (v *Vault) newToken(lasts time.Duration) string {
	value := "hvs." + uuid.NewString()
	v.tokens[value] = &vaultToken{lasts: lasts, ends: time.Now().Add(lasts)}
	return value
}

// Lease is how long the tokens of later logins last.
func (v *Vault) Lease(lasts time.Duration) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.lease = lasts
}

// Paths lists the entries there are, below the mount.
func (v *Vault) Paths() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Sorted(maps.Keys(v.entries))
}

// Holds tells whether any version of any entry still has the text.
func (v *Vault) Holds(text string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, versions := range v.entries {
		for _, version := range versions {
			if strings.Contains(string(version.data), text) {
				return true
			}
		}
	}
	return false
}

// known admits who has a token that has not ended.
func (v *Vault) known(next func(http.ResponseWriter, *http.Request)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v.mu.Lock()
		defer v.mu.Unlock()
		token, found := v.tokens[r.Header.Get("X-Vault-Token")]
		if !found || token.lasts > 0 && time.Now().After(token.ends) {
			vaultErrors(w, http.StatusForbidden, "permission denied")
			return
		}
		next(w, r)
	}
}

func (v *Vault) login(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	var in struct{ Role, JWT string }
	if json.NewDecoder(r.Body).Decode(&in) != nil || in.JWT == "" || v.roles[in.Role] != in.JWT {
		vaultErrors(w, http.StatusForbidden, "permission denied")
		return
	}
	vaultAnswer(w, http.StatusOK, map[string]any{"auth": map[string]any{
		"client_token": v.newToken(v.lease), "lease_duration": int(v.lease.Seconds()), "renewable": true,
	}})
}

func (v *Vault) lookup(w http.ResponseWriter, r *http.Request) {
	token := v.tokens[r.Header.Get("X-Vault-Token")]
	left, ends := 0, any(nil)
	if token.lasts > 0 {
		left, ends = int(time.Until(token.ends).Seconds()), token.ends.Format(time.RFC3339Nano)
	}
	vaultAnswer(w, http.StatusOK, map[string]any{"data": map[string]any{
		"expire_time": ends, "ttl": left, "creation_ttl": int(token.lasts.Seconds()), "renewable": token.lasts > 0,
	}})
}

func (v *Vault) renew(w http.ResponseWriter, r *http.Request) {
	token := v.tokens[r.Header.Get("X-Vault-Token")]
	token.ends = time.Now().Add(token.lasts)
	vaultAnswer(w, http.StatusOK, map[string]any{"auth": map[string]any{
		"lease_duration": int(token.lasts.Seconds()), "renewable": true,
	}})
}

func (v *Vault) revoke(w http.ResponseWriter, r *http.Request) {
	var in struct{ Token string }
	if json.NewDecoder(r.Body).Decode(&in) != nil {
		vaultErrors(w, http.StatusBadRequest, "no token")
		return
	}
	delete(v.tokens, in.Token)
	w.WriteHeader(http.StatusNoContent)
}

func (v *Vault) write(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Data json.RawMessage `json:"data"`
	}
	if json.NewDecoder(r.Body).Decode(&in) != nil || in.Data == nil {
		vaultErrors(w, http.StatusBadRequest, "no data provided")
		return
	}
	path := r.PathValue("path")
	v.entries[path] = append(v.entries[path], vaultVersion{data: in.Data})
	vaultAnswer(w, http.StatusOK, map[string]any{"data": vaultMetadata(len(v.entries[path]), vaultVersion{})})
}

// find gives the version that is asked for, the newest where none is.
func (v *Vault) find(r *http.Request) (int, *vaultVersion) {
	versions := v.entries[r.PathValue("path")]
	n, _ := strconv.Atoi(r.URL.Query().Get("version"))
	if n == 0 {
		n = len(versions)
	}
	if n < 1 || n > len(versions) {
		return 0, nil
	}
	return n, &versions[n-1]
}

func (v *Vault) read(w http.ResponseWriter, r *http.Request) {
	n, version := v.find(r)
	if version == nil {
		vaultErrors(w, http.StatusNotFound)
		return
	}
	status, data := http.StatusOK, version.data
	if version.deleted || version.destroyed {
		status, data = http.StatusNotFound, nil
	}
	vaultAnswer(w, status, map[string]any{"data": map[string]any{"data": data, "metadata": vaultMetadata(n, *version)}})
}

func (v *Vault) remove(w http.ResponseWriter, r *http.Request) {
	if _, version := v.find(r); version != nil {
		version.deleted = true
	}
	w.WriteHeader(http.StatusNoContent)
}

func (v *Vault) destroy(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Versions []int `json:"versions"`
	}
	if json.NewDecoder(r.Body).Decode(&in) != nil || len(in.Versions) == 0 {
		vaultErrors(w, http.StatusBadRequest, "no version number provided")
		return
	}
	versions := v.entries[r.PathValue("path")]
	for _, n := range in.Versions {
		if n >= 1 && n <= len(versions) {
			versions[n-1].data, versions[n-1].destroyed = nil, true
		}
	}
	w.WriteHeader(http.StatusNoContent)
}

func (v *Vault) describe(w http.ResponseWriter, r *http.Request) {
	versions, found := v.entries[r.PathValue("path")]
	if !found {
		vaultErrors(w, http.StatusNotFound)
		return
	}
	all := map[string]any{}
	for i, version := range versions {
		all[strconv.Itoa(i+1)] = vaultMetadata(i+1, version)
	}
	vaultAnswer(w, http.StatusOK, map[string]any{"data": map[string]any{"current_version": len(versions), "versions": all}})
}

func (v *Vault) forget(w http.ResponseWriter, r *http.Request) {
	delete(v.entries, r.PathValue("path"))
	w.WriteHeader(http.StatusNoContent)
}

func vaultMetadata(n int, version vaultVersion) map[string]any {
	deletedAt := ""
	if version.deleted {
		deletedAt = time.Now().UTC().Format(time.RFC3339Nano)
	}
	return map[string]any{"version": n, "deletion_time": deletedAt, "destroyed": version.destroyed}
}

func vaultErrors(w http.ResponseWriter, status int, reasons ...string) {
	vaultAnswer(w, status, map[string]any{"errors": append([]string{}, reasons...)})
}

func vaultAnswer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}
