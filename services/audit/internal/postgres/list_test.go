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

	"github.com/sentryagent/agentidp/pkg/paging"
	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/pkg/testkit"
	"github.com/sentryagent/agentidp/services/audit/internal/postgres"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

// explain is how a list is carried out, with the plan that holds for all arguments.
func explain(t *testing.T, db *pgdb.DB, filter trail.Filter, page paging.Page) string {
	t.Helper()
	sql, args := postgres.Listing(filter, page)
	return planUnder(t, db, postgres.PlansSQL, sql, args...)
}

// planUnder is the plan of a statement as it was run under settings.
func planUnder(t *testing.T, db *pgdb.DB, settings, sql string, args ...any) (plan string) {
	t.Helper()
	prepared(t, db, settings, sql, func(tx pgx.Tx) { plan = planned(t, tx, args...) })
	return plan
}

// prepared runs do in a transaction with these settings in which the statement is prepared.
func prepared(t *testing.T, db *pgdb.DB, settings, sql string, do func(tx pgx.Tx)) {
	t.Helper()
	require.NoError(t, db.WithTx(t.Context(), func(tx pgx.Tx) error {
		for _, statement := range []string{settings, "PREPARE looked_at AS " + sql} {
			if _, err := tx.Exec(t.Context(), statement); err != nil {
				return err
			}
		}
		do(tx)
		_, err := tx.Exec(t.Context(), "DEALLOCATE looked_at")
		return err
	}))
}

// planned is the plan of the prepared statement as it was run: what a plan for all arguments left out when it began to
// run is not in it.
func planned(t *testing.T, tx pgx.Tx, args ...any) string {
	t.Helper()
	literals := make([]string, len(args))
	for i, arg := range args {
		switch arg := arg.(type) {
		case time.Time:
			literals[i] = "'" + arg.Format(time.RFC3339Nano) + "'"
		case []string:
			literals[i] = "'{" + strings.Join(arg, ",") + "}'"
		default:
			literals[i] = fmt.Sprintf("'%v'", arg)
		}
	}
	rows, err := tx.Query(t.Context(), "EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF, SUMMARY OFF) EXECUTE looked_at("+strings.Join(literals, ", ")+")")
	require.NoError(t, err)
	plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
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
		filter, page := trail.Filter{From: &from}, paging.Page{Limit: 20}
		for bit, set := range []func(){
			func() { filter.AgentID = &agent },
			func() { filter.ActorID = &agent },
			func() { filter.Action = &failed },
			func() { filter.Outcome = &failure },
			func() { filter.Outcome = &success },
			func() {
				page.After = &paging.Position{Time: all[50].Timestamp, ID: all[50].ID}
				filter.To = &to
			},
		} {
			if mask&(1<<bit) != 0 {
				set()
			}
		}
		sql, args := postgres.CountingEdge(filter)
		for _, plan := range []string{explain(t, db, filter, page), planUnder(t, db, postgres.PlansSQL, sql, args...)} {
			require.Regexp(t, `Index (Only )?Scan using events_`, plan, "filters %06b", mask)
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
		plan := explain(t, db, filter, paging.Page{Limit: 20})
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
	plan := explain(t, db, trail.Filter{From: &day, To: &end, AgentID: &agent}, paging.Page{Limit: 20})
	require.Contains(t, plan, "Subplans Removed: 9")
	require.Contains(t, plan, "on "+day.Format("events_y2006m01d02"))
	require.Equal(t, 1, strings.Count(plan, "Index Scan"), plan)

	// The first page that is full looks no further.
	from := now.AddDate(0, 0, -90)
	plan = explain(t, db, trail.Filter{From: &from}, paging.Page{Limit: 5})
	require.Equal(t, 9, strings.Count(plan, "(never executed)"), plan)
}

func TestTheSettingsOfListsEndWithThem(t *testing.T) {
	t.Parallel()
	db := testkit.DB(t, "audit")
	store := open(t, db)
	tenDays(t, store)
	for range db.Config().MaxConns { // every connection of the pool has had its turn, in whatever order
		_, err := store.List(t.Context(), trail.Filter{From: &now}, paging.Page{Limit: 1})
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
