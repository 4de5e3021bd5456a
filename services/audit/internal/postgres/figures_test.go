package postgres_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/testkit"
	"github.com/sentryagent/agentidp/services/audit/internal/figures"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

func TestTheFiguresAreWhatIsStored(t *testing.T) {
	t.Parallel()
	db := testkit.DB(t, "audit")
	store := open(t, db)
	oldest := trail.Day(now).AddDate(0, 0, -2)
	found, err := store.Figures(t.Context(), oldest)
	require.NoError(t, err)
	require.Equal(t, figures.Figures{}, found)

	tooOld := at(t, now.AddDate(0, 0, -91))
	verdicts, err := store.Record(t.Context(), []trail.Delivery{at(t, now), at(t, oldest), at(t, oldest.Add(-time.Second)), tooOld})
	require.NoError(t, err)
	require.Equal(t, []trail.Verdict{trail.Stored, trail.Stored, trail.Stored, trail.Dead}, verdicts)
	found, err = store.Figures(t.Context(), oldest)
	require.NoError(t, err)
	require.WithinDuration(t, time.Now(), found.GrewAt, time.Minute)
	found.GrewAt = time.Time{}
	require.Equal(t, figures.Figures{Leaves: 3, DeadLetters: 1, ExpiredDays: 1}, found)
}
