package apperr_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
)

func TestCheckText(t *testing.T) {
	t.Parallel()
	tests := []struct {
		value  string
		reason string
	}{
		{"ok", ""},
		{"日本語日本", ""},
		{"a b", ""},
		{"'; DROP TABLE agents;--", "must have at most 5 characters"},
		{"", "must not be empty"},
		{"   ", "must not consist of spaces only"},
		{"\u00a0\u2003", "must not consist of spaces only"},
		{"x", "must have at least 2 characters"},
		{"sixsix", "must have at most 5 characters"},
		{"a\nb", "must not contain control characters"},
		{"a\x00b", "must not contain control characters"},
		{"a\x7fb", "must not contain control characters"},
		{"a\u0085b", "must not contain control characters"},
		{"a\xffb", "must be valid Unicode text"},
		{"a\ufffdb", "must be valid Unicode text"},
	}
	for _, tt := range tests {
		require.Equal(t, tt.reason, apperr.CheckText(tt.value, 2, 5), "%q", tt.value)
	}
	require.Empty(t, apperr.CheckText("", 0, 5))
}
