package apperr_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
)

func TestCodesHaveTheirStatus(t *testing.T) {
	t.Parallel()
	for code, status := range map[apperr.Code]int{
		"VALIDATION_ERROR": 400, "RETENTION_WINDOW_EXCEEDED": 400, "UNAUTHORIZED": 401, "FORBIDDEN": 403,
		"FREE_TIER_LIMIT_EXCEEDED": 403, "AGENT_NOT_FOUND": 404, "CREDENTIAL_NOT_FOUND": 404, "AUDIT_EVENT_NOT_FOUND": 404,
		"NOT_FOUND": 404, "METHOD_NOT_ALLOWED": 405, "AGENT_ALREADY_EXISTS": 409, "AGENT_ALREADY_DECOMMISSIONED": 409,
		"AGENT_NOT_ACTIVE": 409, "CREDENTIAL_ALREADY_REVOKED": 409, "CREDENTIAL_LIMIT_EXCEEDED": 409,
		"IDEMPOTENCY_KEY_REUSED": 409, "PRECONDITION_FAILED": 412, "PAYLOAD_TOO_LARGE": 413,
		"UNSUPPORTED_MEDIA_TYPE": 415, "RATE_LIMIT_EXCEEDED": 429, "INTERNAL_SERVER_ERROR": 500, "SERVICE_UNAVAILABLE": 503,
		"NO_SUCH_CODE": 500,
	} {
		require.Equal(t, status, code.Status(), code)
	}
}

func TestFrom(t *testing.T) {
	t.Parallel()
	typed := apperr.New(apperr.AgentNotFound, "No such agent.")
	tests := []struct {
		name string
		err  error
		want apperr.Code
	}{
		{"an apperr stays what it is", typed, apperr.AgentNotFound},
		{"a wrapped apperr is found", fmt.Errorf("look up: %w", typed), apperr.AgentNotFound},
		{"an unknown error is internal", errors.New("boom"), apperr.InternalServerError},
		{"a deadline is unavailable", fmt.Errorf("query: %w", context.DeadlineExceeded), apperr.ServiceUnavailable},
		{"a cancelled call is unavailable", context.Canceled, apperr.ServiceUnavailable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := apperr.From(tt.err)
			require.Equal(t, tt.want, got.Code)
			if tt.want != apperr.AgentNotFound {
				require.ErrorIs(t, got, tt.err, "the cause is kept for the log")
			}
		})
	}
	require.Nil(t, apperr.From(nil))
	require.Same(t, typed, apperr.From(fmt.Errorf("look up: %w", typed)))
}

func TestCodeOf(t *testing.T) {
	t.Parallel()
	missing := apperr.New(apperr.AgentNotFound, "No such agent.")
	tests := []struct {
		name string
		err  error
		want apperr.Code
	}{
		{"of a wrapped one", fmt.Errorf("look up: %w", missing), apperr.AgentNotFound},
		{"of a refined copy", missing.Because(errors.New("boom")), apperr.AgentNotFound},
		{"of one among others", errors.Join(errors.New("boom"), missing), apperr.AgentNotFound},
		{"of the outermost, not of its cause", apperr.Unavailable(missing), apperr.ServiceUnavailable},
		{"an unknown error has none", errors.New("boom"), ""},
		{"a deadline has none", context.DeadlineExceeded, ""},
		{"no error has none", nil, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, tt.want, apperr.CodeOf(tt.err))
		})
	}
}

func TestRefiningCopies(t *testing.T) {
	t.Parallel()
	base := apperr.New(apperr.Forbidden, "No.").With(map[string]any{"a": 1})
	cause := errors.New("cause")
	refined := base.With(map[string]any{"b": 2}).WithChallenge("Bearer").WithRetryAfter(time.Minute).Because(cause)

	require.Equal(t, map[string]any{"a": 1}, base.Details)
	require.Empty(t, base.Challenge)
	require.Zero(t, base.RetryAfter)
	require.NoError(t, base.Unwrap())

	require.Equal(t, map[string]any{"a": 1, "b": 2}, refined.Details)
	require.Equal(t, "Bearer", refined.Challenge)
	require.Equal(t, time.Minute, refined.RetryAfter)
	require.ErrorIs(t, refined, cause)
	require.Equal(t, base.Code, refined.Code)
	require.Contains(t, refined.Error(), "cause")
}

func TestTheWireFormHidesTheCause(t *testing.T) {
	t.Parallel()
	for _, e := range []*apperr.Error{
		apperr.Internal(errors.New("pq: password wrong")),
		apperr.Unavailable(errors.New("dial 10.0.0.1: refused")),
	} {
		body, err := json.Marshal(e.WithChallenge("Bearer"))
		require.NoError(t, err)
		var fields map[string]any
		require.NoError(t, json.Unmarshal(body, &fields))
		require.Equal(t, map[string]any{"code": string(e.Code), "message": e.Message}, fields)
	}
}

func TestDecodeRebuildsAnError(t *testing.T) {
	t.Parallel()
	sent := apperr.New(apperr.FreeTierLimitExceeded, "Too many agents.").With(map[string]any{"limit": 100})
	body, err := json.Marshal(sent)
	require.NoError(t, err)

	got := apperr.Decode(http.StatusForbidden, body)
	require.Equal(t, sent.Code, got.Code)
	require.Equal(t, sent.Message, got.Message)
	require.Equal(t, json.Number("100"), got.Details["limit"])
	again, err := json.Marshal(got)
	require.NoError(t, err)
	require.JSONEq(t, string(body), string(again))
}

func TestDecodeDoesNotBelieveForeignBodies(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		status int
		body   string
		want   apperr.Code
	}{
		{"a proxy's page", 502, "<html>bad gateway</html>", apperr.ServiceUnavailable},
		{"an empty 503", 503, "", apperr.ServiceUnavailable},
		{"a foreign 429", 429, "slow down", apperr.ServiceUnavailable},
		{"a foreign 404", 404, `{"error":"not found"}`, apperr.InternalServerError},
		{"a code that does not exist", 404, `{"code":"WHATEVER","message":"x"}`, apperr.InternalServerError},
		{"a code that belongs to another status", 404, `{"code":"FORBIDDEN","message":"x"}`, apperr.InternalServerError},
		{"no status at all", 0, `{"code":"","message":"x"}`, apperr.InternalServerError},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, tt.want, apperr.Decode(tt.status, []byte(tt.body)).Code)
		})
	}
}

func TestFieldsListAllInOrder(t *testing.T) {
	t.Parallel()
	var f apperr.Fields
	require.NoError(t, f.Err(), "nothing failed")
	f.Add("b", "is required")
	f.Add("a", "is too long")

	var e *apperr.Error
	require.ErrorAs(t, f.Err(), &e)
	require.Equal(t, apperr.ValidationError, e.Code)
	require.Equal(t, []apperr.FieldError{{Field: "b", Reason: "is required"}, {Field: "a", Reason: "is too long"}}, e.Details["errors"])
	require.Equal(t, e.Details["errors"], f.All())
}

func TestFieldsAreBounded(t *testing.T) {
	t.Parallel()
	var f apperr.Fields
	for range 250 {
		f.Add("x", "is unknown")
	}
	list, ok := apperr.From(f.Err()).Details["errors"].([]apperr.FieldError)
	require.True(t, ok)
	require.Len(t, list, 101)
	require.Equal(t, apperr.FieldError{Field: "body", Reason: "has 150 more errors"}, list[100])
}

func TestTheLogShowsTheCauseAndAClientDoesNot(t *testing.T) {
	t.Parallel()
	err := apperr.Unavailable(errors.New("connection refused"))
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Warn("x", "error", err)
	require.Contains(t, log.String(), "SERVICE_UNAVAILABLE")
	require.Contains(t, log.String(), "connection refused")
	sent, marshalErr := json.Marshal(err)
	require.NoError(t, marshalErr)
	require.NotContains(t, string(sent), "connection refused")
}
