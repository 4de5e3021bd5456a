package credentials_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/credentialsapi"
	"github.com/sentryagent/agentidp/pkg/lifecycle"
	"github.com/sentryagent/agentidp/pkg/registryapi"
	"github.com/sentryagent/agentidp/pkg/testkit"
)

func pathInVault(agent uuid.UUID, credential any) string {
	return fmt.Sprintf("agentidp/agents/%s/credentials/%s", agent, credential)
}

// metrics are what the replica shows Prometheus.
func (f *fixture) metrics(t *testing.T) string {
	t.Helper()
	res, err := http.Get(f.Internal + "/metrics")
	require.NoError(t, err)
	defer func() { require.NoError(t, res.Body.Close()) }()
	text, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return string(text)
}

func TestWithVaultNoSecretIsInPostgresAndARevocationDeletesThemAll(t *testing.T) {
	v := testkit.StartVault(t, "")
	f := setup(t, "VAULT_ADDR="+v.URL, "VAULT_TOKEN="+v.Token)
	agent := f.agent()
	token := f.token(t, agent, "agents:write")
	created := f.do(t, http.MethodPost, f.url(agent), token, "")
	require.Equal(t, http.StatusCreated, created.status, created.body)
	id, first := created.body["credentialId"], created.body["clientSecret"]
	require.Equal(t, []string{pathInVault(agent, id)}, v.Paths())
	require.True(t, v.Holds(first.(string)))
	rotated := f.do(t, http.MethodPost, f.url(agent, "/", id.(string), "/rotate"), token, `{"gracePeriodSeconds": 600}`)
	second := rotated.body["clientSecret"]

	var hashes int
	require.NoError(t, f.db.QueryRow(t.Context(),
		`SELECT count(*) FROM credentials.credentials WHERE secret_hash LIKE '$2%' OR previous_hash LIKE '$2%'`).Scan(&hashes))
	require.Zero(t, hashes)
	f.startAgain(t) // it remembers nothing
	require.True(t, f.verify(t, agent, first).Previous)
	require.True(t, f.verify(t, agent, second).Valid)

	require.Equal(t, http.StatusNoContent, f.do(t, http.MethodDelete, f.url(agent, "/", id.(string)), token, "").status)
	require.False(t, f.verify(t, agent, second).Valid)
	require.Eventually(t, func() bool { return len(v.Paths()) == 0 }, eventually, often)
	f.requireNowhere(t, first.(string), second.(string))
	require.NotContains(t, f.log.String(), v.Token)
}

func TestWithoutVaultItsReplicaIsReadyAndSaysWhatIsAway(t *testing.T) {
	v := testkit.StartVault(t, "")
	f := setup(t, "VAULT_ADDR="+v.URL, "VAULT_TOKEN="+v.Token)
	agent := f.agent()
	token := f.token(t, agent, "agents:write")
	made := func() (id string, secret any) {
		created := f.do(t, http.MethodPost, f.url(agent), token, "")
		require.Equal(t, http.StatusCreated, created.status, created.body)
		return created.body["credentialId"].(string), created.body["clientSecret"]
	}
	known, secret := made()
	_, strange := made()
	f.startAgain(t)
	require.True(t, f.verify(t, agent, secret).Valid)

	v.Seal()
	for _, refused := range []answer{
		f.do(t, http.MethodPost, f.url(agent), token, ""), f.do(t, http.MethodPost, f.url(agent, "/", known, "/rotate"), token, ""),
	} {
		require.Equal(t, http.StatusServiceUnavailable, refused.status)
		require.Equal(t, "SERVICE_UNAVAILABLE", refused.body["code"])
		require.NotEmpty(t, refused.header.Get("Retry-After"))
		require.NotContains(t, fmt.Sprint(refused.body), "ault")
	}
	require.True(t, f.verify(t, agent, secret).Valid)
	_, err := f.api.Verify(t.Context(), credentialsapi.VerifyRequest{ClientID: agent, Secret: config.Secret(strange.(string))})
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
	require.Equal(t, http.StatusOK, f.get(t, f.Internal+"/readyz").status)
	require.Eventually(t, func() bool {
		return strings.Contains(f.metrics(t), `agentidp_dependency_up{dependency="vault"} 0`)
	}, eventually, often)

	require.Equal(t, http.StatusNoContent, f.do(t, http.MethodDelete, f.url(agent, "/", known), token, "").status)
	require.Eventually(t, func() bool {
		return strings.Contains(f.metrics(t), `agentidp_vault_deletions_overdue 1`)
	}, eventually, often)
	f.startAgain(t) // nor does the end of a replica lose what is to be deleted
	require.Len(t, v.Paths(), 2)
	v.Unseal()
	require.Eventually(t, func() bool { return len(v.Paths()) == 1 }, eventually, often)
	require.True(t, f.verify(t, agent, strange).Valid)
}

func TestADecommissionReachesVault(t *testing.T) {
	v := testkit.StartVault(t, "")
	f := setup(t)
	agent := f.agent()
	token := f.token(t, agent, "agents:write")
	old := f.do(t, http.MethodPost, f.url(agent), token, "").body["clientSecret"]
	f.given["VAULT_ADDR"], f.given["VAULT_TOKEN"] = v.URL, v.Token
	f.startAgain(t)
	require.True(t, f.verify(t, agent, old).Valid, "a hash of before goes on")
	for range 2 {
		require.Equal(t, http.StatusCreated, f.do(t, http.MethodPost, f.url(agent), token, "").status)
	}
	require.Len(t, v.Paths(), 2)

	msg, err := lifecycle.AgentChanged{
		AgentID: agent, Status: registryapi.StatusDecommissioned, Revision: 2, Origin: auditevent.Origin{RequestID: "req-d"},
	}.Message(uuid.Must(uuid.NewV7()))
	require.NoError(t, err)
	_, err = f.nats.JS().Publish(t.Context(), msg.Subject, msg.Payload)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return len(v.Paths()) == 0 }, eventually, often)
	require.False(t, f.verify(t, agent, old).Valid)
}
