package httpapi_test

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/testkit"
)

// The example keys of RFC 7517 appendix A.1 and RFC 8037 appendix A.2, and the secret part of the latter's A.1.
const (
	ecX       = "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4"
	ecY       = "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"
	edX       = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
	edPrivate = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"
)

const keysURI = `{"jwksUri":"https://agent.example.com/jwks.json"}`

// keySet is a body with a set in the form in which it is answered.
func keySet() string {
	return encode(fields{"jwks": fields{"keys": []fields{
		{"kty": "EC", "use": "sig", "kid": "1", "alg": "ES256", "crv": "P-256", "x": ecX, "y": ecY},
		{"kty": "OKP", "use": "sig", "alg": "Ed25519", "crv": "Ed25519", "x": edX},
	}}})
}

func TestKeysAreRegisteredReadReplacedAndRemoved(t *testing.T) {
	t.Parallel()
	b := setup(t)
	path := b.register(t, operator, nil).Header().Get("Location")
	keys := path + "/keys"
	b.call(t, operator, http.MethodGet, keys, "").requireError(apperr.AgentKeysNotFound)
	b.call(t, operator, http.MethodDelete, keys, "").requireError(apperr.AgentKeysNotFound)

	put := b.call(t, operator, http.MethodPut, keys, keySet()).requireStatus(http.StatusOK)
	require.JSONEq(t, keySet(), put.Body.String())
	require.Equal(t, `"2"`, put.Header().Get("ETag"))
	got := b.call(t, operator, http.MethodGet, keys, "").requireStatus(http.StatusOK)
	require.Equal(t, put.Body.String(), got.Body.String())
	require.Equal(t, `"2"`, got.Header().Get("ETag"))
	agent := b.call(t, operator, http.MethodGet, path, "").requireStatus(http.StatusOK)
	require.Equal(t, `"2"`, agent.Header().Get("ETag"), "keys are a part of their agent")
	require.NotContains(t, agent.json(), "keys")

	put = b.call(t, operator, http.MethodPut, keys, keysURI).requireStatus(http.StatusOK)
	require.JSONEq(t, keysURI, put.Body.String())
	require.JSONEq(t, keysURI, b.call(t, operator, http.MethodGet, keys, "").Body.String())

	removed := b.call(t, operator, http.MethodDelete, keys, "").requireStatus(http.StatusNoContent)
	require.Empty(t, removed.Body.String())
	b.call(t, operator, http.MethodGet, keys, "").requireError(apperr.AgentKeysNotFound)
	require.Equal(t, `"4"`, b.call(t, operator, http.MethodGet, path, "").Header().Get("ETag"))
}

func TestASetIsAnsweredWithoutWhatNobodyKnows(t *testing.T) {
	t.Parallel()
	b := setup(t)
	keys := b.register(t, operator, nil).Header().Get("Location") + "/keys"
	put := b.call(t, operator, http.MethodPut, keys,
		`{"jwks":{"keys":[{"x5c":["AA=="],"x":"`+edX+`","note":{"a":[1]},"crv":"Ed25519","key_ops":["verify"],"kty":"OKP"}],"extra":null}}`).
		requireStatus(http.StatusOK)
	require.JSONEq(t, `{"jwks":{"keys":[{"kty":"OKP","use":"sig","crv":"Ed25519","x":"`+edX+`"}]}}`, put.Body.String())
}

func TestWhoMayChangeAndReadKeys(t *testing.T) {
	t.Parallel()
	b := setup(t)
	registrar := as("other-team", "agents:write")
	path := b.register(t, registrar, fields{"owner": "talent-team"}).Header().Get("Location")
	itself := caller{id: uuid.MustParse(strings.TrimPrefix(path, agentsPath+"/")), owner: "talent-team", scopes: "agents:write"}
	b.call(t, operator, http.MethodPut, path+"/keys", keysURI).requireStatus(http.StatusOK)

	for name, c := range map[string]caller{
		"itself": itself, "who registered it": registrar, "the same owner": as("talent-team", "agents:write"), "an operator": operator,
	} {
		b.call(t, c, http.MethodPut, path+"/keys", keySet()).requireStatus(http.StatusOK)
		b.call(t, c, http.MethodDelete, path+"/keys", "").requireStatus(http.StatusNoContent)
		require.Empty(t, b.count(t, "SELECT count(*) FROM registry.agent_keys"), name)
	}
	b.call(t, operator, http.MethodPut, path+"/keys", keysURI).requireStatus(http.StatusOK)
	for _, method := range []string{http.MethodPut, http.MethodDelete} {
		body := ""
		if method == http.MethodPut {
			body = `{"what is wrong with it":"is not told to who may not"}`
		}
		b.call(t, as("stranger", "agents:write"), method, path+"/keys", body).requireError(apperr.Forbidden)
		denied := b.call(t, as("talent-team", "agents:read"), method, path+"/keys", body)
		denied.requireError(apperr.Forbidden)
		require.Contains(t, denied.Header().Get("WWW-Authenticate"), `scope="agents:write"`)
	}
	unknown := agentsPath + "/" + uuid.NewString() + "/keys"
	b.call(t, as("stranger", "agents:write"), http.MethodPut, unknown, keysURI).requireError(apperr.AgentNotFound)
	b.call(t, as("stranger", "agents:write"), http.MethodDelete, unknown, "").requireError(apperr.AgentNotFound)
	b.call(t, operator, http.MethodGet, unknown, "").requireError(apperr.AgentNotFound)
	b.call(t, as("stranger", "agents:read"), http.MethodGet, path+"/keys", "").requireStatus(http.StatusOK)
	b.call(t, as("talent-team", "agents:write"), http.MethodGet, path+"/keys", "").requireError(apperr.Forbidden)
	b.send(t, b.server.PublicHandler(), http.MethodGet, path+"/keys", "").requireError(apperr.Unauthorized)
}

// revision is that of the answer's ETag.
func (a answer) revision() int {
	a.t.Helper()
	revision, err := strconv.Atoi(strings.Trim(a.Header().Get("ETag"), `"`))
	require.NoError(a.t, err)
	return revision
}

func TestPrivateKeyMaterialIsRefusedAndNowhereKept(t *testing.T) {
	t.Parallel()
	b := setup(t)
	keys := b.register(t, operator, nil).Header().Get("Location") + "/keys"
	body := strings.Replace(keySet(), `"crv":"Ed25519"`, `"d":"`+edPrivate+`","crv":"Ed25519"`, 1)
	for _, body := range []string{body, strings.Replace(body, `"OKP"`, `"`+edPrivate+`"`, 1), strings.Replace(body, `{"jwks"`, `{"jwksUri":"`+edPrivate+`","jwks"`, 1)} {
		got := b.call(t, operator, http.MethodPut, keys, body)
		require.Contains(t, got.Body.String(), `"jwks.keys[1].d"`)
		got.requireError(apperr.ValidationError)
		require.NotContains(t, got.Body.String(), edPrivate)
	}
	const pem = "-----BEGIN PRIVATE KEY-----" + edPrivate
	for body, field := range map[string]string{
		strings.Replace(keySet(), `"kid":"1"`, `"kid":"`+pem+`"`, 1):                          "jwks.keys[0]",
		strings.Replace(keySet(), `"crv"`, `"a":{"`+edPrivate+`":{"D":null}},"crv"`, 1):       "jwks.keys[0].d",
		strings.Replace(keySet(), `{"keys"`, `{"private_pem":"`+pem+`","keys"`, 1):            "jwks",
		strings.Replace(keySet(), `{"keys"`, `{"`+edPrivate+`":[{"DP":"`+pem+`"}],"keys"`, 1): "jwks.dp jwks",
	} {
		got := b.call(t, operator, http.MethodPut, keys, body)
		got.requireFields(strings.Fields(field)...)
		require.NotContains(t, got.Body.String(), edPrivate)
	}
	oct := b.call(t, operator, http.MethodPut, keys, `{"jwks":{"keys":[{"kty":"oct","k":"`+edPrivate+`"}]}}`)
	oct.requireFields("jwks.keys[0].k", "jwks.keys[0].kty")
	require.NotContains(t, oct.Body.String(), edPrivate)
	require.Equal(t, 0, b.count(t, "SELECT count(*) FROM registry.agent_keys"))
	require.Equal(t, 1, b.count(t, "SELECT count(*) FROM registry.outbox"))
	require.Equal(t, 1, b.count(t, "SELECT revision FROM registry.agents"))
}

func TestKeysThatAreNone(t *testing.T) {
	t.Parallel()
	b := setup(t)
	keys := b.register(t, operator, nil).Header().Get("Location") + "/keys"
	one := `{"kty":"OKP","crv":"Ed25519","x":"` + edX + `"}`
	for body, wrong := range map[string][]string{
		``:                                   {"body"},
		`{}`:                                 {"jwks"},
		`[]`:                                 {"body"},
		`{"jwks":{"keys":[` + one + `]}`:     {"body"},
		`{"keys":[` + one + `]}`:             {"keys", "jwks"},
		`{"jwks":null}`:                      {"jwks"},
		`{"jwks":[` + one + `]}`:             {"jwks"},
		`{"jwks":{"keys":` + one + `}}`:      {"jwks"},
		`{"jwks":{"keys":[]}}`:               {"jwks.keys"},
		`{"jwks":{"keys":[7]}}`:              {"jwks.keys[0]"},
		`{"jwks":{"keys":[{"kty":"x"},{}]}}`: {"jwks.keys[0].kty", "jwks.keys[1].kty"},
		`{"jwks":{"keys":[` + one + `]},"jwksUri":"https://agent.example.com/"}`: {"jwksUri"},
		`{"jwks":{"keys":[{"kid":"a","kid":"b"}]}}`:                              {"jwks.keys[0].kid"},
		`{"jwksUri":null}`:                                 {"jwksUri"},
		`{"jwksUri":""}`:                                   {"jwksUri"},
		`{"jwksUri":7,"colour":"red"}`:                     {"jwksUri", "colour"},
		`{"jwksUri":"http://agent.example.com/"}`:          {"jwksUri"},
		`{"jwksUri":"https://localhost/"}`:                 {"jwksUri"},
		`{"jwksUri":"https://169.254.169.254/latest"}`:     {"jwksUri"},
		`{"jwksUri":"https://[::ffff:10.0.0.1]/"}`:         {"jwksUri"},
		`{"jwksUri":"https://u:p@agent.example.com/"}`:     {"jwksUri"},
		`{"jwksURI":"https://agent.example.com/"}`:         {"jwksURI", "jwks"},
		`{"jwksUri":"https://agent.example.com/\u0000"}`:   {"jwksUri", "jwks"},
		`{"jwks":{"keys":[` + one + `,{"x":"\u0000"}]}}`:   {"jwks.keys[1].x"},
		`{"jwks":{"keys":[` + one + `],"name":"\ud800" }}`: {"jwks.name"},
	} {
		b.call(t, operator, http.MethodPut, keys, body).requireFields(wrong...)
	}
	b.call(t, operator, http.MethodPut, keys, keySet(), "Content-Type", "application/jwk-set+json").requireError(apperr.UnsupportedMediaType)
	b.call(t, operator, http.MethodPut, keys, keySet()+strings.Repeat(" ", 64<<10)).requireError(apperr.PayloadTooLarge)
	require.Equal(t, 0, b.count(t, "SELECT count(*) FROM registry.agent_keys"))
}

func TestIfMatchGuardsKeys(t *testing.T) {
	t.Parallel()
	b := setup(t)
	keys := b.register(t, operator, nil).Header().Get("Location") + "/keys"
	b.call(t, operator, http.MethodPut, keys, keysURI, "If-Match", `"2"`).requireError(apperr.PreconditionFailed)
	b.call(t, operator, http.MethodPut, keys, keysURI, "If-Match", `"1"`).requireStatus(http.StatusOK)
	b.call(t, operator, http.MethodDelete, keys, "", "If-Match", `"1"`).requireError(apperr.PreconditionFailed)
	b.call(t, operator, http.MethodDelete, keys, "", "If-Match", `"2"`).requireStatus(http.StatusNoContent)
}

func TestKeysOfADecommissionedAgentAreReadableOnly(t *testing.T) {
	t.Parallel()
	b := setup(t)
	path := b.register(t, operator, nil).Header().Get("Location")
	b.call(t, operator, http.MethodPut, path+"/keys", keysURI).requireStatus(http.StatusOK)
	b.call(t, operator, http.MethodDelete, path, "").requireStatus(http.StatusNoContent)
	b.call(t, operator, http.MethodPut, path+"/keys", keySet()).requireError(apperr.AgentAlreadyDecommissioned)
	b.call(t, operator, http.MethodDelete, path+"/keys", "").requireError(apperr.AgentAlreadyDecommissioned)
	require.JSONEq(t, keysURI, b.call(t, operator, http.MethodGet, path+"/keys", "").requireStatus(http.StatusOK).Body.String())
}

func TestEveryChangeOfKeysLeavesItsEvents(t *testing.T) {
	t.Parallel()
	b := setup(t)
	path := b.register(t, operator, nil).Header().Get("Location")
	b.call(t, operator, http.MethodPut, path+"/keys", keySet()).requireStatus(http.StatusOK)
	b.call(t, operator, http.MethodPut, path+"/keys", keysURI).requireStatus(http.StatusOK)
	b.call(t, operator, http.MethodDelete, path+"/keys", "").requireStatus(http.StatusNoContent)
	b.call(t, operator, http.MethodDelete, path+"/keys", "").requireError(apperr.AgentKeysNotFound)

	rows, err := b.db.Query(t.Context(), "SELECT payload FROM registry.outbox WHERE subject = 'audit.registry.agent.keys_updated' ORDER BY position")
	require.NoError(t, err)
	defer rows.Close()
	var told []map[string]any
	for rows.Next() {
		var payload []byte
		require.NoError(t, rows.Scan(&payload))
		event := testkit.Event(t, payload)
		require.Equal(t, operator.id, *event.ActorID)
		require.Equal(t, path, agentsPath+"/"+event.AgentID.String())
		told = append(told, event.Metadata)
	}
	require.NoError(t, rows.Err())
	require.Equal(t, []map[string]any{
		{"set": "jwks", "keys": 2.0, "kids": []any{"1"}, "thumbprints": []any{
			"cn-I_WNMClehiVp51i_0VpOENW1upEerA8sEam5hn-s", // RFC 7517 appendix A.1
			"kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k", // RFC 8037 appendix A.3
		}},
		{"set": "jwksUri", "jwksUri": "https://agent.example.com/jwks.json"},
		{"removed": true},
	}, told)
	require.Equal(t, 3, b.count(t, "SELECT count(*) FROM registry.outbox WHERE subject LIKE 'lifecycle.agent.%'"))
	var state []byte
	require.NoError(t, b.db.QueryRow(t.Context(),
		"SELECT payload FROM registry.outbox WHERE subject LIKE 'lifecycle.%' ORDER BY position DESC LIMIT 1").Scan(&state))
	var last struct{ Revision int64 }
	require.NoError(t, json.Unmarshal(state, &last))
	require.Equal(t, int64(4), last.Revision)
}
