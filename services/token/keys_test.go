package token_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/testkit"
	"github.com/sentryagent/agentidp/services/token"
)

// key is what `keys list --json` tells of one.
type key struct {
	ID        string     `json:"kid"`
	Algorithm string     `json:"alg"`
	State     string     `json:"state"`
	SignsFrom *time.Time `json:"signsFrom"`
	GoneAt    *time.Time `json:"goneAt"`
}

// command runs a command about keys with the few settings it needs.
func command(t *testing.T, databaseURL string, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := token.Keys(t.Context(), args, &out, testkit.Environment(map[string]string{
		"DATABASE_URL": databaseURL, "KEY_PROPAGATION": "10s",
		"KEY_ENCRYPTION_KEY": base64.StdEncoding.EncodeToString(make([]byte, 32)),
	}))
	return out.String(), err
}

func listKeys(t *testing.T, databaseURL string, args ...string) []key {
	t.Helper()
	out, err := command(t, databaseURL, append([]string{"list", "--json"}, args...)...)
	require.NoError(t, err)
	require.NotContains(t, out, "PRIVATE")
	var list []key
	require.NoError(t, json.Unmarshal([]byte(out), &list), out)
	return list
}

// published are the ids of the keys in a replica's JWKS.
func (w *world) published(t *testing.T) []string {
	t.Helper()
	var set struct{ Keys []struct{ Kid string } }
	require.NoError(t, json.Unmarshal([]byte(w.get(t, w.Public+"/.well-known/jwks.json").body), &set))
	kids := make([]string, 0, len(set.Keys))
	for _, key := range set.Keys {
		kids = append(kids, key.Kid)
	}
	return kids
}

func kidOf(t *testing.T, access string) string {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(access[:bytes.IndexByte([]byte(access), '.')])
	require.NoError(t, err)
	var header struct{ Kid string }
	require.NoError(t, json.Unmarshal(raw, &header))
	return header.Kid
}

func TestCommandsMoveTheKeysOfEveryRunningReplica(t *testing.T) {
	t.Parallel()
	w := setup(t, map[string]string{"KEY_PROPAGATION": "10s"})
	other := *w
	other.start(t)
	replicas := []*world{w, &other}
	id := w.peers.register()
	database := w.database.AppURL
	old := w.issue(t, id, "tokens:read")
	first := listKeys(t, database)
	require.Len(t, first, 1)
	require.Equal(t, "active", first[0].State)

	out, err := command(t, database, "rotate")
	require.NoError(t, err)
	list := listKeys(t, database)
	require.Equal(t, "next", list[0].State)
	require.Contains(t, out, list[0].ID)
	require.Contains(t, out, list[0].SignsFrom.Format(time.RFC3339))
	_, err = command(t, database, "rotate")
	require.ErrorContains(t, err, list[0].ID)
	for _, replica := range replicas {
		require.Eventually(t, func() bool { return len(replica.published(t)) == 2 }, soon, often, "a replica does not publish the next key")
		require.Equal(t, first[0].ID, kidOf(t, replica.issue(t, id, "")), "it does not sign yet")
	}
	for _, replica := range replicas {
		require.Eventually(t, func() bool { return kidOf(t, replica.issue(t, id, "")) == list[0].ID }, 2*soon, 10*often)
		require.Equal(t, true, replica.introspect(t, old, old).field(t, "active"), "what the old key signed goes on")
	}

	out, err = command(t, database, "retire", first[0].ID)
	require.NoError(t, err)
	require.Contains(t, out, first[0].ID+" is gone; "+list[0].ID+" signs.")
	fresh := w.issue(t, id, "tokens:read")
	for _, replica := range replicas {
		require.Eventually(t, func() bool {
			return replica.introspect(t, fresh, old).field(t, "active") == false
		}, soon, often, "what a retired key signed still goes")
		require.Equal(t, []string{list[0].ID}, replica.published(t))
		require.Equal(t, true, replica.introspect(t, fresh, fresh).field(t, "active"))
	}
	require.Len(t, listKeys(t, database), 1)
	require.Len(t, listKeys(t, database, "--all"), 2)
	table, err := command(t, database, "list", "--all")
	require.NoError(t, err)
	require.Regexp(t, `KID +ALG +STATE +CREATED +SIGNS FROM +SIGNED UNTIL +GONE AT\n`, table)
	require.Regexp(t, list[0].ID+` +ES256 +active `, table)
	require.Regexp(t, first[0].ID+` +ES256 +gone `, table)
	require.Contains(t, w.get(t, w.Internal+"/metrics").body, `agentidp_signing_keys{state="active"} 1`)
}

func TestCommandsThatCannotBeDoneSayWhy(t *testing.T) {
	t.Parallel()
	database := testkit.Postgres(t, "token").AppURL
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"nothing said":                 {nil, "say what to do"},
		"another word":                 {[]string{"destroy"}, `unknown command "destroy"`},
		"a list of one":                {[]string{"list", "x"}, `does not take "x"`},
		"no key named":                 {[]string{"retire"}, "name one key"},
		"two keys named":               {[]string{"retire", "a", "b"}, "name one key"},
		"an option it does not have":   {[]string{"rotate", "--now"}, `does not take "--now"`},
		"no key there yet":             {[]string{"rotate"}, "no signing key yet"},
		"an unknown key":               {[]string{"retire", "unknown"}, "no key has this id"},
		"one that begins with a dash ": {[]string{"retire", "-unknown", "--json"}, "-unknown: no key has this id"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := command(t, database, test.args...)
			require.ErrorContains(t, err, test.want)
		})
	}
	err := token.Keys(t.Context(), []string{"list"}, &bytes.Buffer{}, testkit.Environment(nil))
	require.EqualError(t, err, "configuration: DATABASE_URL: is required; KEY_ENCRYPTION_KEY: is required")
}

func importable(t *testing.T) string {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalECPrivateKey(private)
	require.NoError(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
}

func TestAnImportedKeySignsAndGoesThroughTheStates(t *testing.T) {
	t.Parallel()
	w := setup(t, map[string]string{"JWT_PRIVATE_KEY": importable(t), "KEY_PROPAGATION": "10s"})
	id := w.peers.register()
	access := w.issue(t, id, "tokens:read")
	require.Equal(t, []string{kidOf(t, access)}, w.published(t))
	w.Stop()
	w.start(t)
	require.Equal(t, []string{kidOf(t, access)}, w.published(t), "it is imported once")

	w.Stop()
	w.settings["JWT_PRIVATE_KEY"] = importable(t)
	w.start(t)
	require.Eventually(t, func() bool { return len(w.published(t)) == 2 }, soon, often, "a second one is published first")
	require.Equal(t, kidOf(t, access), kidOf(t, w.issue(t, id, "")))
	require.Eventually(t, func() bool { return kidOf(t, w.issue(t, id, "")) != kidOf(t, access) }, 2*soon, 10*often)
	require.Equal(t, true, w.introspect(t, access, access).field(t, "active"))
}

func TestSettingsOfKeysMakeSenseTogether(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		settings map[string]string
		want     []string
	}{
		"a rotation as short as the propagation": {map[string]string{"KEY_ROTATION": "10m"}, []string{"KEY_ROTATION", "KEY_PROPAGATION (10m0s)"}},
		"a negative rotation":                    {map[string]string{"KEY_ROTATION": "-1h"}, []string{"KEY_ROTATION"}},
		"a propagation nobody can follow":        {map[string]string{"KEY_PROPAGATION": "9s"}, []string{"KEY_PROPAGATION"}},
		"and a rotation as short as the least":   {map[string]string{"KEY_PROPAGATION": "9s", "KEY_ROTATION": "10s"}, []string{"KEY_ROTATION", "KEY_PROPAGATION (10s)"}},
		"a rotation beside an unread propagation": {
			map[string]string{"KEY_PROPAGATION": "soon", "KEY_ROTATION": "-1h", "TOKEN_TTL": "59"},
			[]string{`KEY_PROPAGATION: "soon"`, "KEY_ROTATION must be longer than KEY_PROPAGATION (10s)", "TOKEN_TTL"},
		},
		"as many failures as none": {
			map[string]string{"AUTH_FAILURES_PER_MINUTE": "9223372036854775807"}, []string{"AUTH_FAILURES_PER_MINUTE must be from 0 to 1000000000"},
		},
		"a key that is none": {map[string]string{"JWT_PRIVATE_KEY": "hunter2"}, []string{"JWT_PRIVATE_KEY: holds no private key"}},
		"a key of another kind": {
			map[string]string{"JWT_PRIVATE_KEY": importable(t)},
			[]string{"JWT_PRIVATE_KEY: is a key for ES256, and SIGNING_ALG is RS256; set SIGNING_ALG=ES256"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := token.LoadConfig(testkit.Environment(minimal(test.settings)))
			require.Error(t, err)
			for _, want := range test.want {
				require.ErrorContains(t, err, want)
			}
			require.NotContains(t, err.Error(), "hunter2")
		})
	}
	for name, settings := range map[string]map[string]string{
		"the defaults":             nil,
		"no rotation by itself":    {"KEY_ROTATION": "0"},
		"a key of the right kind":  {"JWT_PRIVATE_KEY": importable(t), "SIGNING_ALG": "ES256"},
		"all of them much shorter": {"KEY_PROPAGATION": "10s", "KEY_ROTATION": "11s"},
	} {
		_, err := token.LoadConfig(testkit.Environment(minimal(settings)))
		require.NoError(t, err, name)
	}
}

// minimal are settings that a service can be made with, and others.
func minimal(others map[string]string) map[string]string {
	values := map[string]string{
		"DATABASE_URL": "postgres://x/y", "REDIS_URL": "redis://x", "NATS_URL": "nats://x", "ISSUER": issuer,
		"INTERNAL_API_TOKEN": internalToken, "REGISTRY_INTERNAL_URL": "http://x", "CREDENTIALS_INTERNAL_URL": "http://x",
		"KEY_ENCRYPTION_KEY": base64.StdEncoding.EncodeToString(make([]byte, 32)),
	}
	for name, value := range others {
		values[name] = value
	}
	return values
}
