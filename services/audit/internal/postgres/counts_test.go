package postgres_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/migrations"
	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/pkg/testkit"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

// counted is one row of audit.day_counts.
type counted struct {
	AgentID, ActorID uuid.NullUUID
	Day              time.Time
	Action, Outcome  string
}

func counts(t *testing.T, db *pgdb.DB) map[counted]int64 {
	t.Helper()
	rows, err := db.Query(t.Context(), "SELECT agent_id, actor_id, day, action, outcome, events FROM audit.day_counts")
	require.NoError(t, err)
	found := map[counted]int64{}
	var row counted
	var events int64
	_, err = pgx.ForEachRow(rows, []any{&row.AgentID, &row.ActorID, &row.Day, &row.Action, &row.Outcome, &events}, func() error {
		require.NotContains(t, found, row)
		found[row] = events
		return nil
	})
	require.NoError(t, err)
	return found
}

// requireCounts holds what is counted against what is stored.
func requireCounts(t *testing.T, db *pgdb.DB) {
	t.Helper()
	rows, err := db.Query(t.Context(), "SELECT agent_id, actor_id, timestamp, action, outcome FROM audit.events")
	require.NoError(t, err)
	want := map[counted]int64{}
	var row counted
	_, err = pgx.ForEachRow(rows, []any{&row.AgentID, &row.ActorID, &row.Day, &row.Action, &row.Outcome}, func() error {
		row.Day = trail.Day(row.Day)
		all, byActor := row, row
		all.AgentID, all.ActorID, byActor.AgentID = uuid.NullUUID{}, uuid.NullUUID{}, uuid.NullUUID{}
		want[all]++
		if row.AgentID.Valid {
			want[row]++
		}
		if row.ActorID.Valid && row.ActorID != row.AgentID {
			want[byActor]++
		}
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, want, counts(t, db))
}

// various makes events about and by a few agents and nobody, over some days.
func various(t *testing.T, random *rand.Rand, agents []uuid.UUID, events, days int) []trail.Delivery {
	t.Helper()
	who := func() any {
		if n := random.IntN(len(agents) + 1); n < len(agents) {
			return agents[n]
		}
		return nil
	}
	moment := func() time.Duration { // often one that a day begins or ends with
		const last = 24*time.Hour - time.Microsecond
		return []time.Duration{0, last, time.Duration(random.Int64N(int64(last)))}[random.IntN(3)]
	}
	made := make([]trail.Delivery, 0, events)
	for len(made) < events {
		made = append(made, published(t, random.Uint64N(1<<40), func(fields map[string]any) {
			fields["timestamp"] = trail.Day(now).AddDate(0, 0, -random.IntN(days)).Add(moment()).Truncate(time.Microsecond)
			fields["agentId"] = who()
			if fields["actorId"] = fields["agentId"]; random.IntN(2) == 0 {
				fields["actorId"] = who()
			}
			fields["action"] = []string{"token.issued", "auth.failed", "agent.updated"}[random.IntN(3)]
			fields["outcome"] = []string{"success", "failure"}[random.IntN(2)]
		}))
	}
	return made
}

// few are some agents, among them those whose ids are the least and the greatest there are.
func few() []uuid.UUID { return []uuid.UUID{uuid.New(), uuid.New(), uuid.Nil, uuid.Max} }

func TestEveryEventIsCountedOnce(t *testing.T) {
	t.Parallel()
	db := testkit.DB(t, "audit")
	store, seed := open(t, db), rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	agents := few()
	for range 6 {
		batch := various(t, random, agents, 1+random.IntN(60), 8)
		batch = append(batch, batch[0]) // comes twice in one batch
		if random.IntN(2) == 0 {        // has the others stored one by one
			spoilt := various(t, random, agents, 1, 8)[0]
			spoilt.Event.Outcome = "maybe"
			batch = append(batch, spoilt)
		}
		for range 2 { // comes again
			_, err := store.Record(t.Context(), batch)
			require.NoError(t, err)
		}
		requireCounts(t, db)
	}
}

func TestEventsAreCountedOnTheirDayInUTCWhereverTheSessionIs(t *testing.T) {
	t.Parallel()
	database := testkit.Postgres(t, "audit")
	conn := connect(t, database.AppURL)
	day := trail.Day(now)
	_, err := conn.Exec(t.Context(), "SET timezone = 'Pacific/Kiritimati'")
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), "SELECT audit.ensure_partition($1::text::date)", day.Format(time.DateOnly))
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), `INSERT INTO audit.events (event_id, timestamp, leaf_index, action, outcome, service, payload)
		SELECT gen_random_uuid(), unnest($1::timestamptz[]), 0, 'x', 'success', 'x', '{}'`, []time.Time{day, day.Add(24*time.Hour - time.Microsecond)})
	require.NoError(t, err)
	require.Equal(t, map[counted]int64{{Day: day, Action: "x", Outcome: "success"}: 2}, counts(t, testkit.Open(t, database.AppURL)))
}

func TestTheCountsOfADayGoWithIt(t *testing.T) {
	t.Parallel()
	database := testkit.Postgres(t, "audit")
	db := testkit.Open(t, database.AppURL)
	oldest := trail.NewWindow(90).Oldest(now)
	record(t, open(t, db), at(t, oldest), at(t, oldest.AddDate(0, 0, 2)), at(t, now))
	// What a release of before left when it removed a day.
	_, err := connect(t, database.OwnerURL).Exec(t.Context(), "INSERT INTO audit.day_counts VALUES (NULL, NULL, $1, 'x', 'success', 7)", oldest.AddDate(0, 0, -1))
	require.NoError(t, err)

	dropped, err := retention(t, database, 1).Drop(t.Context())

	require.NoError(t, err)
	require.Len(t, dropped, 1)
	require.Len(t, counts(t, db), 2)
	requireCounts(t, db)
}

func TestRetentionBeforeTheMigrationThatCountsRemovesNothingAndSaysSo(t *testing.T) {
	t.Parallel()
	database := testkit.Postgres(t, "audit")
	db := testkit.Open(t, database.AppURL)
	record(t, open(t, db), at(t, trail.NewWindow(90).Oldest(now)))
	takeBack(t, database.OwnerURL, "counts")
	dropped, err := retention(t, database, 1).Drop(t.Context())
	require.ErrorContains(t, err, "day_counts")
	require.Empty(t, dropped)
	require.Equal(t, 1, count(t, db))
}

func TestTheEventsThatThereAreAreCountedByTheMigration(t *testing.T) {
	t.Parallel()
	database := testkit.Postgres(t, "audit")
	db := testkit.Open(t, database.AppURL)
	store, random := open(t, db), rand.New(rand.NewPCG(1, 2))
	takeBack(t, database.OwnerURL, "counts")
	record(t, store, various(t, random, few(), 200, 8)...)
	require.NoError(t, migrations.Apply(t.Context(), "audit", database.OwnerURL, nil))
	requireCounts(t, db)
	record(t, store, various(t, random, few(), 50, 8)...)
	requireCounts(t, db)
}

func TestWhatWasStoredPastTheTriggerCanBeCounted(t *testing.T) {
	t.Parallel()
	database := testkit.Postgres(t, "audit")
	db := testkit.Open(t, database.AppURL)
	record(t, open(t, db), various(t, rand.New(rand.NewPCG(3, 4)), few(), 100, 3)...)
	owner := connect(t, database.OwnerURL)
	day := trail.Day(now).AddDate(0, 0, -1)
	_, err := owner.Exec(t.Context(), "DELETE FROM audit.day_counts WHERE day = $1", day)
	require.NoError(t, err)
	_, err = owner.Exec(t.Context(), "SELECT audit.count_day($1)", day)
	require.NoError(t, err)
	requireCounts(t, db)
	_, err = owner.Exec(t.Context(), "SELECT audit.count_day($1)", day)
	require.ErrorContains(t, err, "day_counts_key", "nothing is counted twice")
}
