package postgres_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/testkit"
	"github.com/sentryagent/agentidp/services/audit/internal/postgres"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

func TestASearchOpensNoMoreDaysThanItNeeds(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	from := now.Add(-100 * day)
	whole := 100.0
	for name, test := range map[string]struct {
		perDay float64
		days   []float64 // what is asked for, one after the other
	}{
		"enough at once":                  {20, []float64{3}},
		"as many more days as should do":  {5, []float64{3, 7.5}},
		"at least twice as many":          {6.5, []float64{3, 6}},
		"what would be most of it is all": {0.5, []float64{3, whole}},
		"nothing to go by":                {0, []float64{3, whole}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var asked []float64
			look := postgres.Stretch(trail.Filter{From: &from}, now, 30)
			require.NoError(t, look(now.Add(-3*day), func(some trail.Filter) (int64, error) {
				days := now.Sub(*some.From).Hours() / 24
				asked = append(asked, days)
				return int64(days * test.perDay), nil
			}))
			require.InDeltaSlice(t, test.days, asked, 0.6)
		})
	}
	failed := errors.New("away")
	err := postgres.Stretch(trail.Filter{From: &from}, now, 30)(now.Add(-3*day), func(trail.Filter) (int64, error) { return 0, failed })
	require.ErrorIs(t, err, failed)
}

func TestAnEstimateIsRememberedAndACountIsNot(t *testing.T) {
	t.Parallel()
	admin := testkit.Postgres(t, "audit")
	store, agent := open(t, testkit.Open(t, admin.AppURL)), uuid.New()
	fill(t, store, agent, postgres.CountUpTo, 100)
	from := trail.Day(now).AddDate(0, 0, -30)
	total := func(filter trail.Filter) trail.Total {
		t.Helper()
		_, total, err := store.List(t.Context(), filter, trail.Slice{Limit: 10})
		require.NoError(t, err)
		return total
	}
	all := trail.Filter{From: &from, AgentID: &agent}
	before := total(all)
	require.True(t, before.Estimate)
	end := trail.Day(now).AddDate(0, 0, -1).Add(-time.Microsecond)
	few := trail.Filter{From: &from, To: &end, AgentID: &agent}
	counted := total(few)
	require.False(t, counted.Estimate)

	// Several times as many, of which the list is not to know yet.
	fill(t, store, agent, 2*postgres.CountUpTo, 10)
	require.Equal(t, before, total(all))
	later := from.Add(time.Minute) // the window moves on
	require.Equal(t, before, total(trail.Filter{From: &later, AgentID: &agent}))
	require.Greater(t, total(few).Events, counted.Events, "what is counted is always counted")
	other := from.AddDate(0, 0, 10)
	require.NotEqual(t, before, total(trail.Filter{From: &other, AgentID: &agent}), "of another time")
	action := "agent.created"
	require.NotEqual(t, before, total(trail.Filter{From: &from, AgentID: &agent, Action: &action}), "of another question")
	postgres.Forget(store.Store)
	require.Greater(t, total(all).Events, 3*before.Events/2)
}
