package tokenapi_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/peer"
	"github.com/sentryagent/agentidp/pkg/revocation"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/pkg/tokenapi"
)

// serve answers every request with that status and body, and tells what it was asked last.
func serve(t *testing.T, status int, body string) (*tokenapi.Client, *http.Request, *tokenapi.CheckRequest) {
	t.Helper()
	var last http.Request
	var check tokenapi.CheckRequest
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		last = *r.Clone(context.Background())
		if r.Method == http.MethodPost {
			if err := json.NewDecoder(r.Body).Decode(&check); err != nil {
				t.Error(err)
			}
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}))
	t.Cleanup(server.Close)
	caller := peer.New(peer.Config{BaseURL: server.URL, Token: "internal", Name: "token", Telemetry: telemetry.Discard("test")})
	return tokenapi.NewClient(caller), &last, &check
}

func TestJWKSComesAsTheServiceWroteIt(t *testing.T) {
	t.Parallel()
	const set = `{"keys":[{"kty":"OKP","kid":"k"}]}`
	client, last, _ := serve(t, http.StatusOK, set)
	got, err := client.JWKS(t.Context())
	require.NoError(t, err)
	require.JSONEq(t, set, string(got))
	require.Equal(t, "/internal/v1/jwks", last.URL.Path)
	require.Equal(t, "Bearer internal", last.Header.Get("Authorization"))
}

func TestRevokedAsksForOneToken(t *testing.T) {
	t.Parallel()
	query := revocation.Query{
		TokenID:  "0190a7c0-0000-7000-8000-000000000001",
		AgentID:  uuid.MustParse("0190a7c0-0000-4000-8000-00000000000a"),
		IssuedAt: time.Date(2026, 11, 22, 12, 0, 0, int(123*time.Millisecond), time.UTC),
	}
	for _, answer := range []bool{true, false} {
		body, err := json.Marshal(tokenapi.CheckResponse{Revoked: answer})
		require.NoError(t, err)
		client, last, check := serve(t, http.StatusOK, string(body))
		revoked, err := client.Revoked(t.Context(), query)
		require.NoError(t, err)
		require.Equal(t, answer, revoked)
		require.Equal(t, "/internal/v1/revocations/check", last.URL.Path)
		require.Equal(t, tokenapi.CheckRequest(query), *check)
	}
}

func TestAnErrorIsNoAnswer(t *testing.T) {
	t.Parallel()
	client, _, _ := serve(t, http.StatusServiceUnavailable, `{"code":"SERVICE_UNAVAILABLE","message":"down"}`)
	_, err := client.Revoked(t.Context(), revocation.Query{})
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
	_, err = client.JWKS(t.Context())
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))

	for _, body := range []string{`{}`, `{"revoked":null}`} {
		client, _, _ = serve(t, http.StatusOK, body)
		_, err = client.Revoked(t.Context(), revocation.Query{})
		require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err), body)
	}
}
