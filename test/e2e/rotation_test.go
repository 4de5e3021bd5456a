package e2e

import (
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// An operator rotates a secret, and learns from the credential when nobody uses the old one any more.
func TestAnOperatorSeesWhenTheOldSecretIsSafeToDrop(t *testing.T) {
	t.Parallel()
	in := install(t)
	operator := in.operator(t)
	agent := in.register(t, operator, "rotating@example.com", nil)
	id, old := in.credential(t, operator, agent)
	shown := func() map[string]any {
		got := in.call(t, http.MethodGet, "/api/v1/agents/"+agent+"/credentials", operator, nil)
		return got.object(t)["data"].([]any)[0].(map[string]any)
	}
	lastUse := func(field string) time.Time {
		text, _ := shown()[field].(string)
		at, _ := time.Parse(time.RFC3339, text)
		return at
	}
	require.Nil(t, shown()["lastUsedAt"])
	rotate := "/api/v1/agents/" + agent + "/credentials/" + id + "/rotate"
	misplaced := in.call(t, http.MethodPost, rotate+"?gracePeriodSeconds=3600", operator, map[string]any{})
	require.Equal(t, http.StatusBadRequest, misplaced.status, "it would end the old secret at once")
	require.Equal(t, []string{"gracePeriodSeconds"}, misplaced.fields(t))
	rotated := in.call(t, http.MethodPost, rotate, operator, map[string]any{"gracePeriodSeconds": 3600})
	require.Equal(t, http.StatusOK, rotated.status, "%s", rotated.body)
	require.Equal(t, id, rotated.object(t)["credentialId"])
	require.NotEmpty(t, rotated.object(t)["previousSecretExpiresAt"])
	fresh := rotated.object(t)["clientSecret"].(string)
	require.NotEqual(t, old, fresh)
	require.Nil(t, shown()["previousSecretLastUsedAt"])

	began := time.Now()
	for range 5 {
		in.token(t, agent, old, "")
	}
	ended := time.Now()
	require.Eventually(t, func() bool { return !lastUse("previousSecretLastUsedAt").IsZero() }, grace(time.Minute), 500*time.Millisecond,
		"a use is shown within a minute")
	used := lastUse("previousSecretLastUsedAt")
	require.WithinRange(t, used, began.Truncate(time.Second), ended)
	require.Equal(t, used, lastUse("lastUsedAt"))

	in.token(t, agent, fresh, "")
	require.Eventually(t, func() bool { return lastUse("lastUsedAt").After(used) }, grace(time.Minute), 500*time.Millisecond)
	require.Equal(t, used, lastUse("previousSecretLastUsedAt"), "the old secret was not used any more")

	rotated = in.call(t, http.MethodPost, rotate, operator, map[string]any{})
	require.Equal(t, http.StatusOK, rotated.status)
	require.Nil(t, shown()["previousSecretExpiresAt"])
	for _, gone := range []string{old, fresh} {
		eventually(t, func() bool {
			got := in.form(t, "/api/v1/token", url.Values{"grant_type": {"client_credentials"}, "client_id": {agent}, "client_secret": {gone}})
			return got.status == http.StatusUnauthorized
		}, "a rotation without a grace period ends both at once")
	}
	in.token(t, agent, rotated.object(t)["clientSecret"].(string), "")
}
