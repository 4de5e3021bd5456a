package figures_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/services/audit/internal/figures"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

type store struct {
	found  figures.Figures
	err    error
	oldest time.Time
}

func (s *store) Figures(_ context.Context, oldest time.Time) (figures.Figures, error) {
	s.oldest = oldest
	return s.found, s.err
}

func TestTheFiguresAreShownAndKeptWhileTheDatabaseIsAway(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 13, 0, 0, 0, time.UTC)
	s := &store{found: figures.Figures{Leaves: 7, GrewAt: time.UnixMilli(1500), DeadLetters: 2, ExpiredDays: 1}}
	tel := telemetry.Discard("audit")
	config := figures.Config{Store: s, Window: trail.NewWindow(10), Telemetry: tel, Clock: func() time.Time { return now }}
	w, err := figures.New(config)
	require.NoError(t, err)
	require.NoError(t, w.Look(t.Context()))
	require.Equal(t, time.Date(2026, 11, 12, 0, 0, 0, 0, time.UTC), s.oldest)

	s.err, s.found = errors.New("away"), figures.Figures{}
	require.ErrorIs(t, w.Look(t.Context()), s.err)
	require.NoError(t, testutil.GatherAndCompare(tel.Metrics.Registry, strings.NewReader(`
# HELP agentidp_audit_checkpoint_timestamp_seconds Unix time at which the newest head of the audit log was signed, 0 before the first.
# TYPE agentidp_audit_checkpoint_timestamp_seconds gauge
agentidp_audit_checkpoint_timestamp_seconds 1.5
# HELP agentidp_audit_dead_letters What could not be stored as an event and is kept for an operator.
# TYPE agentidp_audit_dead_letters gauge
agentidp_audit_dead_letters 2
# HELP agentidp_audit_expired_days Days before the retention window that are still stored.
# TYPE agentidp_audit_expired_days gauge
agentidp_audit_expired_days 1
# HELP agentidp_audit_log_leaves Events in the audit log, those that retention has removed included.
# TYPE agentidp_audit_log_leaves gauge
agentidp_audit_log_leaves 7
`), "agentidp_audit_checkpoint_timestamp_seconds", "agentidp_audit_dead_letters", "agentidp_audit_expired_days", "agentidp_audit_log_leaves"))

	_, err = figures.New(config)
	require.ErrorContains(t, err, "register")
}
