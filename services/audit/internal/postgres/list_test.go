package postgres_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/pkg/testkit"
	"github.com/sentryagent/agentidp/services/audit/internal/postgres"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

// explain is how a list is carried out, with the plan that holds for all arguments.
func explain(t *testing.T, db *pgdb.DB, filter trail.Filter, slice trail.Slice) string {
	t.Helper()
	sql, args := postgres.Listing(filter, slice)
	return explainSQL(t, db, sql, args)
}

func explainSQL(t *testing.T, db *pgdb.DB, sql string, args []any) string {
	t.Helper()
	literals := make([]string, len(args))
	for i, arg := range args {
		literals[i] = fmt.Sprintf("'%v'", arg)
		if at, is := arg.(time.Time); is {
			literals[i] = "'" + at.Format(time.RFC3339Nano) + "'"
		}
	}
	var plan []string
	require.NoError(t, db.WithTx(t.Context(), func(tx pgx.Tx) error {
		for _, statement := range []string{postgres.PlansSQL, "PREPARE list AS " + sql} {
			if _, err := tx.Exec(t.Context(), statement); err != nil {
				return err
			}
		}
		rows, err := tx.Query(t.Context(), "EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF, SUMMARY OFF) EXECUTE list("+strings.Join(literals, ", ")+")")
		if err != nil {
			return err
		}
		plan, err = pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return err
		}
		_, err = tx.Exec(t.Context(), "DEALLOCATE list")
		return err
	}))
	return strings.Join(plan, "\n")
}

// tenDays is a trail of ten days with twenty events each, and what to ask for.
func tenDays(t *testing.T, store *log) (agent uuid.UUID, all []trail.Event) {
	t.Helper()
	agent = uuid.New()
	var deliveries []trail.Delivery
	for i := range uint64(200) {
		deliveries = append(deliveries, published(t, i, func(fields map[string]any) {
			fields["timestamp"] = now.AddDate(0, 0, int(i/20)-10).Add(time.Duration(i) * time.Second)
			if i%2 == 0 {
				fields["agentId"], fields["actorId"] = agent, agent
			}
			if i%4 == 0 {
				fields["action"], fields["outcome"] = "auth.failed", "failure"
			}
		}))
	}
	return agent, record(t, store, deliveries...)
}

func TestEveryListWalksIndexesInOrder(t *testing.T) {
	t.Parallel()
	db := testkit.DB(t, "audit")
	agent, all := tenDays(t, open(t, db))
	failed, failure, success := "auth.failed", "failure", "success"
	from, to := now.AddDate(0, 0, -90), now
	for mask := range 1 << 6 {
		filter, slice := trail.Filter{From: &from}, trail.Slice{Limit: 20}
		for bit, set := range []func(){
			func() { filter.AgentID = &agent },
			func() { filter.ActorID = &agent },
			func() { filter.Action = &failed },
			func() { filter.Outcome = &failure },
			func() { filter.Outcome = &success },
			func() {
				slice.After = &trail.Position{Time: all[50].Timestamp, ID: all[50].ID}
				filter.To = &to
			},
		} {
			if mask&(1<<bit) != 0 {
				set()
			}
		}
		sql, args := postgres.CountingPage(filter, slice.Limit)
		for _, plan := range []string{explain(t, db, filter, slice), explainSQL(t, db, sql, args)} {
			require.Contains(t, plan, "Index Scan using events_", "filters %06b", mask)
			for _, other := range []string{"Sort", "Seq Scan", "Bitmap"} { // each reads all that there is before it shows anything
				require.NotContains(t, plan, other, "filters %06b", mask)
			}
		}
	}
}

func TestAListThatNothingMatchesReadsAlmostNothing(t *testing.T) {
	t.Parallel()
	admin := testkit.Postgres(t, "audit")
	owner := testkit.Open(t, admin.OwnerURL)
	busy, other := uuid.New(), uuid.New()
	day := trail.Day(now).AddDate(0, 0, -1)
	_, err := owner.Exec(t.Context(), "SELECT audit.ensure_partition($1)", day)
	require.NoError(t, err)
	// One agent does most, and always succeeds; others fail at something else.
	_, err = owner.Exec(t.Context(), `INSERT INTO audit.events (event_id, timestamp, leaf_index, agent_id, actor_id, action, outcome, service, payload)
		SELECT gen_random_uuid(), $1::timestamptz + n * interval '1 second', n,
			CASE WHEN n % 10 > 0 THEN $2::uuid WHEN n % 20 > 0 THEN $3::uuid ELSE md5((n % 500)::text)::uuid END,
			CASE WHEN n % 10 > 0 THEN $2::uuid WHEN n % 20 = 0 THEN $3::uuid ELSE md5((n % 500)::text)::uuid END,
			CASE WHEN n % 10 > 0 THEN 'token.issued' ELSE (ARRAY['auth.failed', 'agent.updated', 'agent.created', 'credential.rotated'])[1 + n / 10 % 4] END,
			CASE WHEN n % 10 > 0 THEN 'success' ELSE 'failure' END, 'token', '{}' FROM generate_series(1, 20000) n`, day, busy, other)
	require.NoError(t, err)
	_, err = owner.Exec(t.Context(), "ANALYZE audit.events")
	require.NoError(t, err)
	db := testkit.Open(t, admin.AppURL)
	issued, failure := "token.issued", "failure"
	until := day.AddDate(0, 0, 1).Add(-time.Microsecond)
	for name, filter := range map[string]trail.Filter{
		"failures of an action":             {Action: &issued, Outcome: &failure},
		"failures of an agent":              {AgentID: &busy, Outcome: &failure},
		"failures of an agent at an action": {AgentID: &busy, Action: &issued, Outcome: &failure},
		"failures of an actor":              {ActorID: &busy, Outcome: &failure},
		"what an actor did to an agent":     {ActorID: &busy, AgentID: &other},
		"what was done to an agent by one":  {ActorID: &other, AgentID: &busy},
	} {
		filter.From, filter.To = &day, &until
		plan := explain(t, db, filter, trail.Slice{Limit: 20})
		require.Contains(t, plan, "rows=0", name)
		pages := 0
		_, after, ok := strings.Cut(plan, "Buffers: shared ")
		require.True(t, ok, plan)
		for _, field := range strings.Fields(strings.SplitN(after, "\n", 2)[0]) { // hit=3 read=2
			_, number, _ := strings.Cut(field, "=")
			read, err := strconv.Atoi(number)
			require.NoError(t, err)
			pages += read
		}
		require.LessOrEqual(t, pages, 6, "%s: %s", name, plan)
	}
}

func TestAListOfADayLeavesOutTheOtherDays(t *testing.T) {
	t.Parallel()
	db := testkit.DB(t, "audit")
	agent, all := tenDays(t, open(t, db))
	day := trail.Day(all[100].Timestamp)
	end := day.AddDate(0, 0, 1).Add(-time.Microsecond)
	plan := explain(t, db, trail.Filter{From: &day, To: &end, AgentID: &agent}, trail.Slice{Limit: 20})
	require.Contains(t, plan, "Subplans Removed: 9")
	require.Contains(t, plan, "on "+day.Format("events_y2006m01d02"))
	require.Equal(t, 1, strings.Count(plan, "Index Scan"), plan)

	// A deep cursor leaves out the days before which it is, and the first page that
	// is full looks no further.
	plan = explain(t, db, trail.Filter{From: &day}, trail.Slice{Limit: 5, After: &trail.Position{Time: all[110].Timestamp, ID: all[110].ID}})
	require.Contains(t, plan, "Subplans Removed: 9", plan)
	from := now.AddDate(0, 0, -90)
	plan = explain(t, db, trail.Filter{From: &from}, trail.Slice{Limit: 5})
	require.Equal(t, 9, strings.Count(plan, "(never executed)"), plan)
}

func TestTheSettingsOfListsEndWithThem(t *testing.T) {
	t.Parallel()
	db := testkit.DB(t, "audit")
	store := open(t, db)
	tenDays(t, store)
	for range db.Config().MaxConns { // every connection of the pool has had its turn, in whatever order
		_, _, err := store.List(t.Context(), trail.Filter{From: &now}, trail.Slice{Limit: 1})
		require.NoError(t, err)
		var setting string
		require.NoError(t, db.QueryRow(t.Context(), "SHOW enable_sort").Scan(&setting))
		require.Equal(t, "on", setting)
	}
}

// fill stores so many events of an agent per day, the same number about no agent,
// on the days before today.
func fill(t *testing.T, store *log, agent uuid.UUID, perDay ...int) {
	t.Helper()
	sequence := uint64(0)
	for day, events := range perDay {
		var batch []trail.Delivery
		for i := range 2 * events {
			sequence++
			batch = append(batch, published(t, sequence, func(fields map[string]any) {
				share := time.Duration(float64(i) / float64(2*events) * float64(24*time.Hour))
				fields["timestamp"] = trail.Day(now).AddDate(0, 0, -1-day).Add(share)
				if i%2 == 0 {
					fields["agentId"] = agent
				}
			}))
			if len(batch) == 500 {
				record(t, store, batch...)
				batch = nil
			}
		}
		record(t, store, batch...)
	}
}

func TestATotalIsExactWhereItIsCheapAndElseAnEstimate(t *testing.T) {
	t.Parallel()
	admin := testkit.Postgres(t, "audit")
	store, agent := open(t, testkit.Open(t, admin.AppURL)), uuid.New()
	fill(t, store, agent, postgres.CountUpTo/2, postgres.CountUpTo/2, 100)
	seldom, formerly := uuid.New(), uuid.New() // too seldom for a page of the last days
	fill(t, store, seldom, 1, 0, 2, 0, 300)
	fill(t, store, formerly, 0, 0, 1, 0, postgres.CountUpTo, 100)
	_, err := testkit.Open(t, admin.AdminURL).Exec(t.Context(), "ANALYZE audit.events")
	require.NoError(t, err)
	ago := func(days int) *time.Time {
		day := trail.Day(now).AddDate(0, 0, -days)
		return &day
	}

	end := ago(2).Add(-time.Microsecond)
	for name, test := range map[string]struct {
		filter   trail.Filter
		offset   int64
		events   int64
		estimate bool
	}{
		"few of an agent":                        {trail.Filter{From: ago(3), To: &end, AgentID: &agent}, 0, 100, false},
		"as many of an agent as are counted":     {trail.Filter{From: ago(2), AgentID: &agent}, 0, postgres.CountUpTo, false},
		"one more":                               {trail.Filter{From: ago(3), AgentID: &agent}, 0, postgres.CountUpTo + 100, true},
		"all of some days":                       {trail.Filter{From: ago(90)}, 0, 2 * (2*postgres.CountUpTo + 504), true},
		"few in the last days":                   {trail.Filter{From: ago(90), AgentID: &seldom}, 0, 303, false},
		"few in the last days, many before":      {trail.Filter{From: ago(90), AgentID: &formerly}, 0, postgres.CountUpTo + 101, true},
		"whoever sees the end knows the number":  {trail.Filter{From: ago(90), AgentID: &agent}, postgres.CountUpTo + 95, postgres.CountUpTo + 100, false},
		"whoever is past the end has it counted": {trail.Filter{From: ago(3), To: &end, AgentID: &agent}, 101, 100, false},
	} {
		_, got, err := store.List(t.Context(), test.filter, trail.Slice{Offset: test.offset, Limit: 10})
		require.NoError(t, err, name)
		require.Equal(t, test.estimate, got.Estimate, name)
		if test.estimate {
			require.InEpsilon(t, test.events, got.Events, 0.1, name)
		} else {
			require.Equal(t, test.events, got.Events, name)
		}
	}
}

func TestTheFirstPageOfFewIsTheirBeginning(t *testing.T) {
	t.Parallel()
	store, agent := open(t, testkit.DB(t, "audit")), uuid.New()
	fill(t, store, agent, 1, 1, 0, 0, 30)
	from := now.AddDate(0, 0, -60)
	filter := trail.Filter{From: &from, AgentID: &agent}
	page, total, err := store.List(t.Context(), filter, trail.Slice{Limit: 10})
	require.NoError(t, err)
	require.Equal(t, trail.Total{Events: 32}, total)
	require.Len(t, page, 11, "one more, to tell that others follow")
	for i, event := range page[1:] {
		require.True(t, event.Timestamp.Before(page[i].Timestamp))
	}
	rest, _, err := store.List(t.Context(), filter, trail.Slice{Limit: 100, Offset: 10})
	require.NoError(t, err)
	require.Len(t, rest, 22)
	require.Equal(t, page[10], rest[0])
	all, total, err := store.List(t.Context(), filter, trail.Slice{Limit: 50})
	require.NoError(t, err)
	require.Equal(t, trail.Total{Events: 32}, total)
	require.Equal(t, page, all[:11])
	require.Equal(t, rest, all[10:])
}
