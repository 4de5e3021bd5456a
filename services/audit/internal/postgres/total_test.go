package postgres_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/paging"
	"github.com/sentryagent/agentidp/pkg/testkit"
	"github.com/sentryagent/agentidp/services/audit/internal/postgres"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

// matches tells what a list is to show.
func matches(filter trail.Filter, e trail.Event) bool {
	is := func(wanted, found *uuid.UUID) bool { return wanted == nil || found != nil && *wanted == *found }
	return is(filter.AgentID, e.AgentID) && is(filter.ActorID, e.ActorID) &&
		(filter.Action == nil || *filter.Action == e.Action) && (filter.Outcome == nil || *filter.Outcome == e.Outcome) &&
		!e.Timestamp.Before(*filter.From) && (filter.To == nil || !e.Timestamp.After(*filter.To))
}

func TestListsOfAllKindsAreWholeAndTheirTotalsExact(t *testing.T) {
	t.Parallel()
	const days = 12
	store, seed := open(t, testkit.DB(t, "audit")), rand.Uint64()
	t.Logf("seed %d", seed)
	random, agents := rand.New(rand.NewPCG(seed, 0)), few()
	deliveries := various(t, random, agents, 200, days)
	deliveries = append(deliveries, at(t, now.Add(20*time.Hour))) // of a publisher whose clock is ahead
	all := record(t, store, deliveries...)
	slices.SortFunc(all, func(a, b trail.Event) int {
		if order := b.Timestamp.Compare(a.Timestamp); order != 0 {
			return order
		}
		return slices.Compare(b.ID[:], a.ID[:])
	})
	agents = append(agents, uuid.New()) // who did nothing
	moment := func() *time.Time {
		when := all[random.IntN(len(all))].Timestamp // the very moment of an event
		if random.IntN(2) == 0 {
			when = trail.Day(when)
		}
		return &when
	}
	for mask := range 2 << 6 {
		from := trail.Day(now).AddDate(0, 0, -90)
		filter := trail.Filter{From: &from}
		for bit, set := range []func(){
			func() { filter.AgentID = &agents[random.IntN(len(agents))] },
			func() { filter.ActorID = &agents[random.IntN(len(agents))] },
			func() { action := "auth.failed"; filter.Action = &action },
			func() { outcome := []string{"success", "failure"}[random.IntN(2)]; filter.Outcome = &outcome },
			func() { filter.From = moment() },
			func() { end := moment().Add(-time.Microsecond); filter.To = &end },
		} {
			if mask&(1<<bit) != 0 {
				set()
			}
		}
		want := slices.DeleteFunc(slices.Clone(all), func(e trail.Event) bool { return !matches(filter, e) })
		limit := 1 + random.IntN(40)
		page := paging.Page{Limit: limit}
		byOffset, byCursor := []trail.Event{}, []trail.Event{}
		for ; page.Offset <= int64(len(want)); page.Offset += int64(limit) {
			found, err := store.List(t.Context(), filter, page)
			require.NoError(t, err)
			require.Equal(t, paging.Total{Items: int64(len(want))}, found.Total, "filters %06b, behind %d", mask, page.Offset)
			require.Len(t, found.Items, min(limit, len(want)-int(page.Offset)))
			require.Equal(t, page.Offset+int64(limit) < int64(len(want)), found.Next != nil)
			byOffset = append(byOffset, found.Items...)
		}
		require.Equal(t, ids(want), ids(byOffset), "filters %06b", mask)
		page.Offset = 0
		for more := true; more; more = page.After != nil {
			found, err := store.List(t.Context(), filter, page)
			require.NoError(t, err)
			byCursor = append(byCursor, found.Items...)
			page.After = found.Next
		}
		require.Equal(t, ids(want), ids(byCursor), "filters %06b", mask)
	}
}

func TestATotalIsExactButForBusyDaysThatAreCut(t *testing.T) {
	t.Parallel()
	store, agent := open(t, testkit.DB(t, "audit")), uuid.New()
	fill(t, store, agent, postgres.CountUpTo, 2*postgres.CountUpTo, 100)
	ago := func(days, hours int) *time.Time {
		at := trail.Day(now).AddDate(0, 0, -days).Add(time.Duration(hours) * time.Hour)
		return &at
	}
	const most = postgres.CountUpTo
	for name, test := range map[string]struct {
		from, to *time.Time
		events   int64
		estimate bool
	}{
		"whole days, however many":              {ago(3, 0), nil, 3*most + 100, false},
		"a day with few is cut":                 {ago(3, 12), nil, 3*most + 50, false},
		"a day with many is cut, few are left":  {ago(2, 12), nil, 2 * most, false},
		"both ends of one day":                  {ago(2, 6), ago(2, 18), most, false},
		"a day with many is cut, many are left": {ago(2, 6), nil, most + 1500, true},
		"the same at the end of a list":         {ago(90, 0), ago(2, 18), 100 + 1500, true},
	} {
		if test.to != nil {
			end := test.to.Add(-time.Microsecond)
			test.to = &end
		}
		got, err := store.List(t.Context(), trail.Filter{From: test.from, To: test.to, AgentID: &agent}, paging.Page{Limit: 10})
		require.NoError(t, err, name)
		require.Equal(t, test.estimate, got.Total.Estimate, name)
		require.InDelta(t, test.events, got.Total.Items, map[bool]float64{true: 1}[test.estimate], name)
	}
}

func TestADayThatIsNotOverIsEstimatedByWhatHasPassedOfIt(t *testing.T) {
	t.Parallel()
	store, agent := open(t, testkit.DB(t, "audit")), uuid.New()
	yesterday := trail.Day(now).AddDate(0, 0, -1)
	fill(t, store, agent, 4*postgres.CountUpTo) // evenly, over all of yesterday
	for name, test := range map[string]struct {
		now    time.Time
		to     time.Duration
		events int64
	}{
		"over":                  {now, 12 * time.Hour, 2 * postgres.CountUpTo},
		"half over":             {yesterday.Add(12 * time.Hour), 6 * time.Hour, 2 * postgres.CountUpTo},
		"up to now":             {yesterday.Add(12 * time.Hour), 12 * time.Hour, 4 * postgres.CountUpTo},
		"up to a later moment":  {yesterday.Add(12 * time.Hour), 18 * time.Hour, 4 * postgres.CountUpTo},
		"of a clock far behind": {yesterday.AddDate(0, 0, -3), 12 * time.Hour, 2 * postgres.CountUpTo},
		"just begun":            {yesterday.Add(time.Second), 12 * time.Hour, 4 * postgres.CountUpTo},
		"more than are counted": {now, 6*time.Hour + time.Second, postgres.CountUpTo + 1},
	} {
		postgres.SetClock(store.Store, func() time.Time { return test.now })
		to := yesterday.Add(test.to)
		got, err := store.List(t.Context(), trail.Filter{From: &yesterday, To: &to, AgentID: &agent}, paging.Page{Limit: 10})
		require.NoError(t, err, name)
		require.True(t, got.Total.Estimate, name)
		require.InDelta(t, test.events, got.Total.Items, 1, name)
	}
}

func TestAPageOpensNoMoreDaysThanItNeeds(t *testing.T) {
	t.Parallel()
	db := testkit.DB(t, "audit")
	store, agent := open(t, db), uuid.New()
	fill(t, store, agent, 10, 20, 0, 5, 30)
	day := func(ago int) time.Time { return trail.Day(now).AddDate(0, 0, -ago) }
	last := func(ago int) time.Time { return day(ago - 1).Add(-time.Microsecond) }
	for name, test := range map[string]struct {
		from, to *time.Time
		page     paging.Page
		first    time.Time // what is looked through
		last     time.Time
		behind   int64 // of it
	}{
		"the newest":                    {page: paging.Page{Limit: 9}, first: day(1), last: last(1)},
		"one more than the newest has":  {page: paging.Page{Limit: 10}, first: day(2), last: last(1)},
		"past a day without any":        {page: paging.Page{Limit: 30}, first: day(4), last: last(1)},
		"all":                           {page: paging.Page{Limit: 100}, first: day(5), last: last(1)},
		"behind a whole day":            {page: paging.Page{Offset: 10, Limit: 5}, first: day(2), last: last(2)},
		"behind a day and a part":       {page: paging.Page{Offset: 14, Limit: 5}, first: day(2), last: last(2), behind: 4},
		"behind most":                   {page: paging.Page{Offset: 36, Limit: 5}, first: day(5), last: last(5), behind: 1},
		"of a cut day nothing is known": {to: new(day(2).Add(time.Hour)), page: paging.Page{Limit: 1}, first: day(4), last: day(2).Add(time.Hour)},
		"nor is it skipped":             {to: new(day(2).Add(time.Hour)), page: paging.Page{Offset: 30, Limit: 1}, first: day(5), last: day(2).Add(time.Hour), behind: 30},
		"no further than the list":      {from: new(day(4).Add(time.Hour)), page: paging.Page{Limit: 100}, first: day(4).Add(time.Hour), last: last(1)},
	} {
		filter := trail.Filter{From: test.from, To: test.to, AgentID: &agent}
		if filter.From == nil {
			filter.From = new(day(90))
		}
		near, rest, ok, err := postgres.Reach(t.Context(), store.Store, filter, test.page)
		require.NoError(t, err)
		require.True(t, ok, name)
		require.Equal(t, test.first, near.From.UTC(), name)
		require.Equal(t, test.last, near.To.UTC(), name)
		require.Equal(t, test.behind, rest.Offset, name)
		require.Equal(t, test.page.Limit, rest.Limit, name)
	}
	near, rest, _, err := postgres.Reach(t.Context(), store.Store, trail.Filter{From: new(day(90)), AgentID: &agent}, paging.Page{Offset: 14, Limit: 5})
	require.NoError(t, err)
	plan := explain(t, db, near, rest)
	require.Contains(t, plan, "Subplans Removed: 3")
	require.Contains(t, plan, "on "+day(2).Format("events_y2006m01d02"))
}

func TestAListWithoutEventsOpensNoDay(t *testing.T) {
	t.Parallel()
	database := testkit.Postgres(t, "audit")
	store := open(t, testkit.Open(t, database.AppURL))
	record(t, store, published(t, 1, nil))
	_, err := connect(t, database.OwnerURL).Exec(t.Context(), "REVOKE SELECT ON audit.events FROM audit_app")
	require.NoError(t, err)
	nobody := uuid.New()
	for _, filter := range []trail.Filter{{AgentID: &nobody}, {ActorID: &nobody}, {AgentID: &nobody, ActorID: &nobody}} {
		filter.From = new(now.AddDate(0, 0, -90))
		found, err := store.List(t.Context(), filter, paging.Page{Limit: 20})
		require.NoError(t, err)
		require.Empty(t, found)
	}
	found, err := store.List(t.Context(), trail.Filter{From: new(trail.Day(now))}, paging.Page{Offset: 20, Limit: 20})
	require.NoError(t, err, "nor does a page behind all of them")
	require.Equal(t, paging.Listing[trail.Event]{Total: paging.Total{Items: 1}}, found)
}

func TestCountsAreARangeOfTheirIndex(t *testing.T) {
	t.Parallel()
	database := testkit.Postgres(t, "audit")
	owner := testkit.Open(t, database.OwnerURL)
	agent := uuid.New()
	for _, statement := range []string{
		"INSERT INTO audit.day_counts SELECT n, n, day, 'x', 'success', 9 FROM days, (SELECT md5(n::text)::uuid AS n FROM generate_series(1, 500) n) agents",
		"INSERT INTO audit.day_counts SELECT $1, $1, day, 'x', 'success', 9 FROM days",
		"INSERT INTO audit.day_counts SELECT NULL, $1, day, 'x', 'success', 1 FROM days",
		"INSERT INTO audit.day_counts SELECT NULL, NULL, day, 'x', 'success', 5000 FROM days",
	} {
		_, err := owner.Exec(t.Context(), "WITH days AS (SELECT $2::date - d AS day FROM generate_series(0, 89) d) "+statement+" WHERE $1::uuid IS NOT NULL", agent, now)
		require.NoError(t, err)
	}
	_, err := owner.Exec(t.Context(), "ANALYZE audit.day_counts")
	require.NoError(t, err)
	for name, filter := range map[string]trail.Filter{
		"all": {}, "an agent": {AgentID: &agent}, "an actor": {ActorID: &agent}, "both": {AgentID: &agent, ActorID: &agent},
	} {
		filter.From = new(now.AddDate(0, 0, -30))
		sql, args := postgres.Counting(filter)
		for _, plans := range []string{"force_custom_plan", "force_generic_plan"} {
			plan := planOf(t, testkit.Open(t, database.AppURL), plans, sql, args...)
			require.Contains(t, plan, "day_counts_key", name)
			require.NotContains(t, plan, "Seq Scan", name)
			require.NotContains(t, plan, "Rows Removed", name)
		}
	}
}
