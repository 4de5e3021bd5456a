package httpapi_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/credentialsapi"
	"github.com/sentryagent/agentidp/services/credentials/internal/secret"
)

const (
	verifyPath   = "/internal/v1" + credentialsapi.VerifyPath
	screenPath   = "/internal/v1" + credentialsapi.ScreenPath
	usagePath    = "/internal/v1" + credentialsapi.UsagePath
	operatorPath = "/internal/v1" + credentialsapi.OperatorCredentialPath
	takeBackPath = "/internal/v1" + credentialsapi.OperatorRevocationPath
)

func TestVerifyAnswersTheVerdict(t *testing.T) {
	t.Parallel()
	until := created.Add(time.Hour)
	for name, tc := range map[string]struct {
		verdict secret.Verdict
		want    string
	}{
		"good": {
			secret.Verdict{Valid: true, CredentialID: &credentialID, ValidUntil: &until},
			`{"valid":true,"credentialId":"` + credentialID.String() + `","previous":false,"validUntil":"2026-11-22T10:14:03.120518Z"}`,
		},
		"wrong":   {secret.Verdict{Reason: "invalid_secret"}, `{"valid":false,"reason":"invalid_secret","previous":false}`},
		"expired": {secret.Verdict{Reason: "credential_expired"}, `{"valid":false,"reason":"credential_expired","previous":false}`},
	} {
		f := setup(t)
		f.domain.verdict = tc.verdict
		res := f.callInternal(t, http.MethodPost, verifyPath, `{"clientId": "`+agentID.String()+`", "secret": "anything at all"}`)
		require.Equal(t, http.StatusOK, res.status, name)
		require.JSONEq(t, tc.want, res.body, name)
		require.Equal(t, []call{{method: "verify", agentID: agentID, presented: "anything at all"}}, f.domain.calls)
	}
}

func TestManySecretsAreScreenedAtOnce(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.domain.plausible = []bool{false, true}
	res := f.callInternal(t, http.MethodPost, screenPath,
		`{"secrets": [{"clientId": "`+agentID.String()+`", "secret": ""}, {"clientId": "`+credentialID.String()+`", "secret": "anything"}]}`)
	require.Equal(t, http.StatusOK, res.status, res.body)
	require.JSONEq(t, `{"plausible": [false, true]}`, res.body)
	require.Equal(t, []call{{method: "screen", screened: []secret.Presented{
		{ClientID: agentID}, {ClientID: credentialID, Secret: "anything"},
	}}}, f.domain.calls)
}

func TestUsesArePassedOn(t *testing.T) {
	t.Parallel()
	f := setup(t)
	res := f.callInternal(t, http.MethodPost, usagePath,
		`{"uses": [{"credentialId": "`+credentialID.String()+`", "usedAt": "2026-11-22T09:14:03.120518Z", "previous": true}]}`)
	require.Equal(t, http.StatusNoContent, res.status, res.body)
	require.Len(t, f.domain.calls, 1)
	require.Equal(t, []secret.Use{{CredentialID: credentialID, UsedAt: created, Previous: true}}, f.domain.calls[0].uses)
}

func TestAnOperatorIsGivenACredentialOrToldThatItHasOne(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.domain.issued = issued()
	res := f.callInternal(t, http.MethodPost, operatorPath, `{"agentId": "`+agentID.String()+`", "onlyIfNone": true}`)
	require.Equal(t, http.StatusCreated, res.status, res.body)
	require.Equal(t, "no-store", res.header.Get("Cache-Control"))
	var got credentialsapi.OperatorCredential
	require.NoError(t, json.Unmarshal([]byte(res.body), &got))
	require.Equal(t, credentialsapi.OperatorCredential{
		CredentialID: credentialID, ClientID: agentID, ClientSecret: f.domain.issued.Secret, CreatedAt: created,
	}, got)
	require.Equal(t, []call{{method: "operator", agentID: agentID, onlyIfNone: true}}, f.domain.calls)

	f.domain.exists = true
	res = f.callInternal(t, http.MethodPost, operatorPath, `{"agentId": "`+agentID.String()+`", "credentialId": "`+credentialID.String()+`"}`)
	require.Equal(t, http.StatusOK, res.status)
	require.JSONEq(t, `{"exists": true}`, res.body)
	require.Equal(t, call{method: "operator", agentID: agentID, credentialID: credentialID}, f.domain.calls[1])
}

func TestACredentialOfTheOperatorIsTakenBack(t *testing.T) {
	t.Parallel()
	f := setup(t)
	body := `{"agentId": "` + agentID.String() + `", "credentialId": "` + credentialID.String() + `"}`
	res := f.callInternal(t, http.MethodPost, takeBackPath, body)
	require.Equal(t, http.StatusNoContent, res.status, res.body)
	require.Equal(t, []call{{method: "revoke", agentID: agentID, credentialID: credentialID}}, f.domain.calls)

	f.domain.err = apperr.New(apperr.CredentialNotFound, "")
	require.Equal(t, http.StatusNotFound, f.callInternal(t, http.MethodPost, takeBackPath, body).status)
}

func TestInternalRequestsAreHeldToTheirForm(t *testing.T) {
	t.Parallel()
	many := strings.Repeat(`{"credentialId":"`+uuid.NewString()+`","usedAt":"2026-11-22T09:14:03Z"},`, credentialsapi.MaxUses)
	for name, tc := range map[string]struct {
		path, body string
		fields     []string
	}{
		"verify without a client":   {verifyPath, `{"secret": "x"}`, []string{"clientId"}},
		"verify with another field": {verifyPath, `{"clientId": "` + agentID.String() + `", "secret": "x", "more": 1}`, []string{"more"}},
		"no body":                   {verifyPath, ``, []string{"body"}},
		"too many to screen":        {screenPath, `{"secrets": [` + strings.Repeat(`{"clientId":"`+agentID.String()+`","secret":"x"},`, credentialsapi.MaxScreened) + `{"clientId":"` + agentID.String() + `","secret":"x"}]}`, []string{"secrets"}},
		"a use of nothing":          {usagePath, `{"uses": [{}]}`, []string{"uses[0].credentialId", "uses[0].usedAt"}},
		"too many uses":             {usagePath, `{"uses": [` + many + `{"credentialId":"` + uuid.NewString() + `","usedAt":"2026-11-22T09:14:03Z"}]}`, []string{"uses"}},
		"an operator of no id":      {operatorPath, `{}`, []string{"agentId"}},
		"no credential to revoke":   {takeBackPath, `{}`, []string{"agentId", "credentialId"}},
	} {
		f := setup(t)
		require.Equal(t, tc.fields, f.callInternal(t, http.MethodPost, tc.path, tc.body).failing(t), name)
		require.Empty(t, f.domain.calls)
	}
	f := setup(t)
	res := f.callInternal(t, http.MethodPost, usagePath, `{"uses": [`+strings.TrimSuffix(many, ",")+`]}`)
	require.Equal(t, http.StatusNoContent, res.status, "as many uses as are promised")
}

func TestTheInternalAPINeedsTheInternalToken(t *testing.T) {
	t.Parallel()
	for _, path := range []string{verifyPath, screenPath, usagePath, operatorPath, takeBackPath} {
		for _, token := range []string{"", "Bearer wrong", "Basic " + internalToken} {
			f := setup(t)
			req := newRequest(t, http.MethodPost, path, `{}`)
			if token != "" {
				req.Header.Set("Authorization", token)
			}
			require.Equal(t, http.StatusUnauthorized, f.send(t, f.internal, req).status)
			require.Empty(t, f.domain.calls)
		}
		f := setup(t)
		f.domain.err = apperr.Unavailable(nil)
		body := `{"clientId": "` + agentID.String() + `", "secret": ""}`
		switch path {
		case usagePath:
			body = `{"uses": []}`
		case screenPath:
			body = `{"secrets": []}`
		case operatorPath:
			body = `{"agentId": "` + agentID.String() + `"}`
		case takeBackPath:
			body = `{"agentId": "` + agentID.String() + `", "credentialId": "` + credentialID.String() + `"}`
		}
		require.Equal(t, http.StatusServiceUnavailable, f.callInternal(t, http.MethodPost, path, body).status)
	}
}
