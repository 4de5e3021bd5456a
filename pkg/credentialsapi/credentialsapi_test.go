package credentialsapi_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/credentialsapi"
)

var (
	client     = uuid.MustParse("0190a7c0-0000-4000-8000-00000000000a")
	credential = uuid.MustParse("0190a7c0-0000-4000-8000-00000000000c")
	at         = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
)

// caller answers one call and remembers what was sent.
type caller struct {
	answer string
	err    error

	method, path, sent string
	twice              bool // it may be sent so
}

func (c *caller) Do(_ context.Context, method, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	c.method, c.path, c.sent = method, path, string(body)
	if c.err != nil || out == nil {
		return c.err
	}
	return json.Unmarshal([]byte(c.answer), out)
}

// Ask implements the rest of what a client sends through; what it sends may be sent twice.
func (c *caller) Ask(ctx context.Context, path string, in, out any) error {
	c.twice = true
	return c.Do(ctx, http.MethodPost, path, in, out)
}

func TestVerify(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]credentialsapi.VerifyResponse{
		`{"valid":false,"reason":"invalid_secret","previous":false}`: {Reason: credentialsapi.ReasonInvalidSecret},
		`{"valid":true,"credentialId":"0190a7c0-0000-4000-8000-00000000000c","previous":true,"validUntil":"2026-11-22T12:00:00Z"}`: {
			Valid: true, CredentialID: &credential, Previous: true, ValidUntil: &at,
		},
	} {
		c := &caller{answer: answer}
		got, err := credentialsapi.NewClient(c).Verify(t.Context(), credentialsapi.VerifyRequest{ClientID: client, Secret: "sk_live_x"})
		require.NoError(t, err)
		require.Equal(t, want, got)
		require.Equal(t, "POST /secrets/verify", c.method+" "+c.path)
		require.True(t, c.twice)
		require.JSONEq(t, `{"clientId":"0190a7c0-0000-4000-8000-00000000000a","secret":"sk_live_x"}`, c.sent)

		var server credentialsapi.VerifyRequest
		require.NoError(t, json.Unmarshal([]byte(c.sent), &server))
		require.Equal(t, "sk_live_x", server.Secret.Reveal(), "the server reads what the client wrote")
	}
	for _, c := range []*caller{{err: apperr.Unavailable(nil)}, {answer: `{}`}} {
		_, err := credentialsapi.NewClient(c).Verify(t.Context(), credentialsapi.VerifyRequest{})
		require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
	}
}

func TestScreen(t *testing.T) {
	t.Parallel()
	c := &caller{answer: `{"plausible":[false,true]}`}
	plausible, err := credentialsapi.NewClient(c).Screen(t.Context(), []credentialsapi.VerifyRequest{
		{ClientID: credential, Secret: "sk_live_x"}, {ClientID: client, Secret: "sk_live_y"},
	})
	require.NoError(t, err)
	require.Equal(t, []bool{false, true}, plausible)
	require.Equal(t, "POST /secrets/screen", c.method+" "+c.path)
	var server credentialsapi.ScreenRequest
	require.NoError(t, json.Unmarshal([]byte(c.sent), &server))
	require.Len(t, server.Secrets, 2)
	require.Equal(t, client, server.Secrets[1].ClientID)
	require.Equal(t, "sk_live_y", server.Secrets[1].Secret.Reveal(), "the server reads what the client wrote")

	for _, c := range []*caller{{err: apperr.Unavailable(nil)}, {answer: `{}`}, {answer: `{"plausible":[true,true]}`}} {
		_, err := credentialsapi.NewClient(c).Screen(t.Context(), []credentialsapi.VerifyRequest{{}})
		require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	t.Parallel()
	for _, v := range []any{
		credentialsapi.VerifyRequest{ClientID: client, Secret: "sk_live_x"},
		credentialsapi.OperatorCredential{ClientID: client, ClientSecret: "sk_live_x"},
	} {
		require.NotContains(t, fmt.Sprintf("%v %+v %#v", v, v, v), "sk_live_x")
		data, err := json.Marshal(v)
		require.NoError(t, err)
		require.NotContains(t, string(data), "sk_live_x")
	}
}

func TestRecordUse(t *testing.T) {
	t.Parallel()
	c := &caller{}
	require.NoError(t, credentialsapi.NewClient(c).RecordUse(t.Context(), []credentialsapi.Use{{CredentialID: credential, UsedAt: at, Previous: true}}))
	require.Equal(t, "POST /usage", c.method+" "+c.path)
	require.JSONEq(t, `{"uses":[{"credentialId":"0190a7c0-0000-4000-8000-00000000000c","usedAt":"2026-11-22T12:00:00Z","previous":true}]}`, c.sent)

	c.err = apperr.Unavailable(nil)
	require.Error(t, credentialsapi.NewClient(c).RecordUse(t.Context(), nil))
}

func TestOperatorCredential(t *testing.T) {
	t.Parallel()
	wire, err := json.Marshal(credentialsapi.OperatorCredentialWire{
		CredentialID: &credential, ClientID: &client, ClientSecret: "sk_live_x", CreatedAt: &at,
	})
	require.NoError(t, err)
	c := &caller{answer: string(wire)}
	got, err := credentialsapi.NewClient(c).OperatorCredential(t.Context(), credentialsapi.OperatorCredentialRequest{AgentID: client, OnlyIfNone: true})
	require.NoError(t, err)
	require.Equal(t, credentialsapi.OperatorCredential{CredentialID: credential, ClientID: client, ClientSecret: "sk_live_x", CreatedAt: at}, got)
	require.Equal(t, "sk_live_x", got.ClientSecret.Reveal())
	require.Equal(t, "POST /operator-credential", c.method+" "+c.path)
	require.False(t, c.twice, "there would be two of them")
	require.JSONEq(t, `{"agentId":"0190a7c0-0000-4000-8000-00000000000a","onlyIfNone":true}`, c.sent)

	exists, err := json.Marshal(credentialsapi.OperatorCredentialWire{Exists: true})
	require.NoError(t, err)
	require.JSONEq(t, `{"exists":true}`, string(exists))
	got, err = credentialsapi.NewClient(&caller{answer: string(exists)}).OperatorCredential(t.Context(), credentialsapi.OperatorCredentialRequest{})
	require.NoError(t, err)
	require.True(t, got.Exists)

	_, err = credentialsapi.NewClient(&caller{err: apperr.Unavailable(nil)}).OperatorCredential(t.Context(), credentialsapi.OperatorCredentialRequest{})
	require.Error(t, err)
}

func TestRevokeOperatorCredential(t *testing.T) {
	t.Parallel()
	c := &caller{}
	req := credentialsapi.OperatorRevocation{AgentID: client, CredentialID: credential}
	require.NoError(t, credentialsapi.NewClient(c).RevokeOperatorCredential(t.Context(), req))
	require.Equal(t, "POST /operator-credential/revoke", c.method+" "+c.path)
	require.JSONEq(t, `{"agentId":"0190a7c0-0000-4000-8000-00000000000a","credentialId":"0190a7c0-0000-4000-8000-00000000000c"}`, c.sent)

	c.err = apperr.Unavailable(nil)
	require.Error(t, credentialsapi.NewClient(c).RevokeOperatorCredential(t.Context(), req))
}
