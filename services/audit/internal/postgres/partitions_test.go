package postgres_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/auditlog"
	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/pkg/testkit"
	"github.com/sentryagent/agentidp/services/audit/internal/postgres"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

// at is the delivery of an event of another time.
func at(t *testing.T, moment time.Time) trail.Delivery {
	t.Helper()
	return published(t, 1, func(fields map[string]any) { fields["timestamp"] = moment })
}

// under is the delivery of an event of a time under an id.
func under(t *testing.T, id uuid.UUID, moment time.Time) trail.Delivery {
	t.Helper()
	return published(t, 1, func(fields map[string]any) { fields["eventId"], fields["timestamp"] = id, moment })
}

func partitionOf(moment time.Time) string { return moment.UTC().Format("audit.events_y2006m01d02") }

func partitions(t *testing.T, db *pgdb.DB) []string {
	t.Helper()
	rows, err := db.Query(t.Context(), "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'audit.events'::regclass ORDER BY 1")
	require.NoError(t, err)
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return names
}

func TestAnEventLandsInThePartitionOfItsOwnDay(t *testing.T) {
	t.Parallel()
	db := testkit.DB(t, "audit")
	store := open(t, db)
	midnight := trail.Day(now)
	batch := []trail.Delivery{
		at(t, now),
		at(t, now.AddDate(0, 0, -3)), // days late
		at(t, now.AddDate(0, 0, -89)),
		at(t, midnight),
		at(t, midnight.Add(-time.Microsecond)),
		at(t, now.Add(20*time.Hour)), // of a publisher whose clock is ahead
		under(t, idAt(now.Add(-time.Hour)), now),
		under(t, uuid.New(), now.AddDate(0, 0, -10)),
	}
	record(t, store, batch...)
	for _, d := range batch {
		var where string
		require.NoError(t, db.QueryRow(t.Context(), "SELECT tableoid::regclass::text FROM audit.events WHERE event_id = $1", d.Event.ID).Scan(&where))
		require.Equal(t, partitionOf(d.Event.Timestamp), where)
		got, err := store.Get(t.Context(), d.Event.ID)
		require.NoError(t, err)
		require.Equal(t, d.Event, got, "found although the time in the id is another")
	}
	requireLog(t, db, store.key, int64(len(batch)))

	verdicts, err := store.Record(t.Context(), batch) // redelivered, long after the stream forgot their ids
	require.NoError(t, err)
	for _, verdict := range verdicts {
		require.Equal(t, trail.Duplicate, verdict)
	}
}

func TestEventsOutsideOfTheDaysThatAreKeptAreDeadLetters(t *testing.T) {
	t.Parallel()
	db := testkit.DB(t, "audit")
	store := open(t, db)
	tooOld, tooNew := at(t, now.AddDate(0, 0, -91)), at(t, now.Add(37*time.Hour)) // now is not always the database's
	tooOld.Origin.Sequence, tooNew.Origin.Sequence = 1, 2
	verdicts, err := store.Record(t.Context(), []trail.Delivery{tooOld, at(t, now), tooNew})
	require.NoError(t, err)
	require.Equal(t, []trail.Verdict{trail.Dead, trail.Stored, trail.Dead}, verdicts)
	found := letters(t, db)
	require.Len(t, found, 2)
	require.Contains(t, found[0].Reason, "before the retention window of 90 days")
	require.Contains(t, found[1].Reason, "in the future")
	require.Equal(t, tooOld.Payload, found[0].Payload)
	require.Equal(t, []string{partitionOf(now)}, partitions(t, db))
}

func TestAReplicaWhoseClockIsWrongRejectsNoGoodEvent(t *testing.T) {
	t.Parallel()
	for _, wrong := range []int{-2, 100} {
		db := testkit.DB(t, "audit")
		key := testkit.AuditLogKey(t)
		cfg := sequencing(db, key)
		cfg.Clock = func() time.Time { return now.AddDate(0, 0, wrong) }
		batch := []trail.Delivery{at(t, now), at(t, now.AddDate(0, 0, -80)), at(t, now.AddDate(0, 0, -93))}
		verdicts, err := postgres.NewSequencer(cfg).Record(t.Context(), batch)
		require.NoError(t, err)
		require.Equal(t, []trail.Verdict{trail.Stored, trail.Stored, trail.Dead}, verdicts, "%d days", wrong)
		requireLog(t, db, key, 2)
	}
}

func TestAnIDIsTakenOnceWhicheverDayItsEventsHave(t *testing.T) {
	t.Parallel()
	midnight := trail.Day(now)
	tests := map[string]struct {
		id     uuid.UUID
		events []time.Time // the first one is stored
	}{
		"the days around the id's":    {idAt(now), []time.Time{now, now.Add(-24 * time.Hour), now.Add(24 * time.Hour), now.Add(time.Second)}},
		"the day before first":        {idAt(now), []time.Time{now.Add(-23 * time.Hour), now, now.Add(23 * time.Hour)}},
		"the day after first":         {idAt(now), []time.Time{now.Add(24 * time.Hour), now, now.Add(-24 * time.Hour)}},
		"both sides of midnight":      {idAt(midnight), []time.Time{midnight, midnight.Add(-time.Microsecond)}},
		"days ago":                    {idAt(now.AddDate(0, 0, -40)), []time.Time{now.AddDate(0, 0, -40), now.AddDate(0, 0, -39)}},
		"an id without a time":        {uuid.New(), []time.Time{now.AddDate(0, 0, -80), now, now.AddDate(0, 0, -3)}},
		"an id without a time, later": {uuid.New(), []time.Time{now, now.AddDate(0, 0, -80)}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var batch []trail.Delivery
			for i, moment := range test.events {
				d := under(t, test.id, moment)
				d.Origin.Sequence = uint64(i)
				batch = append(batch, d)
			}
			for way, together := range map[string]bool{"in one batch": true, "in batches of their own": false} {
				db := testkit.DB(t, "audit")
				store := open(t, db)
				if together {
					_, err := store.Record(t.Context(), batch)
					require.NoError(t, err)
				} else {
					for _, d := range batch {
						_, err := store.Record(t.Context(), []trail.Delivery{d})
						require.NoError(t, err)
					}
				}
				requireLog(t, db, store.key, 1)
				got, err := postgres.NewLog(db).LeafOf(t.Context(), test.id)
				require.NoError(t, err)
				require.Equal(t, test.events[0], got.Timestamp.UTC(), way)
				found := letters(t, db)
				require.Len(t, found, len(batch)-1, way)
				for _, letter := range found {
					require.Contains(t, letter.Reason, "that of another event")
				}
			}
		})
	}
}

func TestAnEventWhoseIDLeadsToOtherDaysIsADeadLetter(t *testing.T) {
	t.Parallel()
	db := testkit.DB(t, "audit")
	store := open(t, db)
	for i, drift := range []time.Duration{-24*time.Hour - time.Millisecond, 24*time.Hour + time.Millisecond, -80 * 24 * time.Hour} {
		d := under(t, idAt(now.Add(drift)), now)
		d.Origin.Sequence = uint64(i)
		verdicts, err := store.Record(t.Context(), []trail.Delivery{d, at(t, now)})
		require.NoError(t, err)
		require.Equal(t, []trail.Verdict{trail.Dead, trail.Stored}, verdicts, drift)
		require.Contains(t, letters(t, db)[i].Reason, "the time in eventId lies more than a day from timestamp")
	}
	requireLog(t, db, store.key, 3)
}

func TestTheComingDaysArePrepared(t *testing.T) {
	t.Parallel()
	db := testkit.DB(t, "audit")
	key := testkit.AuditLogKey(t)
	var replicas sync.WaitGroup
	for range 4 {
		replicas.Go(func() { assert.NoError(t, postgres.NewSequencer(sequencing(db, key)).PrepareAhead(t.Context())) })
	}
	replicas.Wait()
	var want []string
	for i := range 8 {
		want = append(want, partitionOf(now.AddDate(0, 0, i)))
	}
	require.Equal(t, want, partitions(t, db))
}

func TestNoPartitionIsMadeForADayThatNobodyNeeds(t *testing.T) {
	t.Parallel()
	db := testkit.DB(t, "audit")
	for _, day := range []string{"1999-12-31", "9999-01-01", "-infinity", now.AddDate(0, 0, 40).Format(time.DateOnly)} {
		_, err := db.Exec(t.Context(), "SELECT audit.ensure_partition($1::text::date)", day)
		require.ErrorContains(t, err, "SQLSTATE 22008", day)
	}
	require.Empty(t, partitions(t, db))
}

func TestQueriesReadTheDaysThatTheyAskForOnly(t *testing.T) {
	t.Parallel()
	db := testkit.DB(t, "audit")
	store := open(t, db)
	for i := range 10 {
		record(t, store, at(t, now.AddDate(0, 0, -i)))
	}
	from, to := trail.Day(now).AddDate(0, 0, -4), trail.Day(now).AddDate(0, 0, -2).Add(-time.Microsecond)
	within := []string{partitionOf(now.AddDate(0, 0, -3)), partitionOf(now.AddDate(0, 0, -4))}
	tests := map[string]struct {
		sql  string
		args []any
		want []string
	}{
		"a list": {
			"SELECT payload FROM audit.events WHERE timestamp >= $1 AND timestamp <= $2 ORDER BY timestamp DESC, event_id DESC LIMIT 21",
			[]any{from, to}, within,
		},
		"a list of one action":    {"SELECT payload FROM audit.events WHERE timestamp >= $1 AND timestamp <= $2 AND action = 'x'", []any{from, to}, within},
		"a count":                 {"SELECT count(*) FROM audit.events WHERE timestamp >= $1 AND timestamp <= $2", []any{from, to}, within},
		"the search for known":    {postgres.KnownSQL, []any{trail.Day(now).AddDate(0, 0, -1), trail.Day(now).AddDate(0, 0, 2), []string{published(t, 1, nil).Event.ID.String()}}, []string{partitionOf(now), partitionOf(now.AddDate(0, 0, -1))}},
		"one event by its id":     {postgres.LeafSQL, []any{published(t, 1, nil).Event.ID, now.Add(-time.Minute), now.Add(time.Minute)}, []string{partitionOf(now)}},
		"no day that there is":    {"SELECT payload FROM audit.events WHERE timestamp >= $1", []any{now.AddDate(0, 0, 9)}, nil},
		"a walk on from a cursor": {"SELECT payload FROM audit.events WHERE timestamp >= $1 AND timestamp <= $2 AND (timestamp, event_id) < ($2, gen_random_uuid())", []any{from, to}, within},
	}
	for name, test := range tests {
		for _, plans := range []string{"force_custom_plan", "force_generic_plan"} {
			plan := planOf(t, db, plans, test.sql, test.args...)
			var scanned []string
			for i := range 10 {
				if partition := partitionOf(now.AddDate(0, 0, -i)); strings.Contains(plan, strings.TrimPrefix(partition, "audit.")) {
					scanned = append(scanned, partition)
				}
			}
			require.ElementsMatch(t, test.want, scanned, "%s, %s:\n%s", name, plans, plan)
		}
	}
}

func planOf(t *testing.T, db *pgdb.DB, plans, sql string, args ...any) string {
	t.Helper()
	return planUnder(t, db, "SET LOCAL plan_cache_mode = "+plans, sql, args...)
}

// What the planner was last told of a day that has just begun is not true for long.
func TestABatchDoesNotReadTheWholeDayToFindWhatIsKnown(t *testing.T) {
	t.Parallel()
	const fill = `INSERT INTO audit.events (event_id, timestamp, leaf_index, action, outcome, service, payload)
		SELECT gen_random_uuid(), $1::timestamptz + n * interval '1 ms', n, 'token.issued', 'success', 'token', '{}' FROM generate_series(1, $2) n`
	ids := make([]string, 500)
	for i := range ids {
		ids[i] = idAt(now).String()
	}
	for name, told := range map[string]int{"nothing": -1, "that it is empty": 0, "that it is small": 100} {
		database := testkit.Postgres(t, "audit")
		db, owner := testkit.Open(t, database.AppURL), testkit.Open(t, database.OwnerURL)
		_, err := db.Exec(t.Context(), "SELECT audit.ensure_partition($1::date)", now)
		require.NoError(t, err)
		if told >= 0 {
			_, err = db.Exec(t.Context(), fill, now, told)
			require.NoError(t, err)
			_, err = owner.Exec(t.Context(), "ANALYZE audit.events")
			require.NoError(t, err)
		}
		prepared(t, db, postgres.LeaseSQL, postgres.KnownSQL, func(tx pgx.Tx) {
			asked := []any{trail.Day(now), trail.Day(now).AddDate(0, 0, 1), ids}
			planned(t, tx, asked...) // while the day is young
			for range 2 {
				_, err := tx.Exec(t.Context(), fill, now, 3000)
				require.NoError(t, err)
				plan := planned(t, tx, asked...)
				require.Regexp(t, `Index Scan using events_y\w+_pkey on events_y\w+ .*loops=500\)\n\s+Index Cond: \(\(event_id = wanted.id\)`, plan, name)
				require.NotContains(t, plan, "Rows Removed", name)
			}
		})
	}
}

func TestADayThatTheDatabaseHasLostIsMadeAgain(t *testing.T) {
	t.Parallel()
	database := testkit.Postgres(t, "audit")
	db := testkit.Open(t, database.AppURL)
	store := open(t, db)
	yesterday := now.AddDate(0, 0, -1)
	record(t, store, at(t, now), at(t, yesterday))
	// As after a standby took over that had not heard of the day yet.
	_, err := connect(t, database.OwnerURL).Exec(t.Context(), "DROP TABLE "+partitionOf(now))
	require.NoError(t, err)
	lost, other := at(t, now), at(t, yesterday)

	verdicts, err := store.Record(t.Context(), []trail.Delivery{lost, other})

	require.NoError(t, err)
	require.Equal(t, []trail.Verdict{trail.Retry, trail.Stored}, verdicts)
	record(t, store, lost)
	require.Empty(t, letters(t, db))
}

// retention works as the owner and keeps so many days fewer than the 90 of which events are stored.
func retention(t *testing.T, database testkit.Database, fewer int) postgres.Retention {
	t.Helper()
	return postgres.Retention{
		DB: testkit.Open(t, database.OwnerURL), Window: trail.NewWindow(90 - fewer), Clock: func() time.Time { return now },
	}
}

func TestADayIsDroppedOnlyIfTheDatabaseAgreesThatItIsPast(t *testing.T) {
	t.Parallel()
	database := testkit.Postgres(t, "audit")
	db := testkit.Open(t, database.AppURL)
	record(t, open(t, db), at(t, now), at(t, now.AddDate(0, 0, -80)))
	past, oldest := trail.Day(now).AddDate(0, 0, -92), trail.Day(now).AddDate(0, 0, -89) // one from the edge: it may be midnight meanwhile
	for _, day := range []time.Time{past, oldest} {
		_, err := db.Exec(t.Context(), "SELECT audit.ensure_partition($1::date)", day)
		require.NoError(t, err)
	}
	r := retention(t, database, 0)

	r.Clock = func() time.Time { return now.AddDate(0, 0, -100) }
	dropped, err := r.Drop(t.Context())
	require.NoError(t, err)
	require.Empty(t, dropped)
	r.Clock = func() time.Time { return now.AddDate(0, 0, 100) }
	dropped, err = r.Drop(t.Context())
	require.NoError(t, err)
	require.Equal(t, []postgres.Dropped{{Day: past}}, dropped)
	require.Equal(t, 2, count(t, db))
	require.Contains(t, partitions(t, db), partitionOf(oldest), "it is within the window by the database's clock")
}

func TestRetentionDropsWholeDaysAndTheLogKeepsProving(t *testing.T) {
	t.Parallel()
	database := testkit.Postgres(t, "audit")
	db := testkit.Open(t, database.AppURL)
	store := open(t, db)
	oldest := trail.NewWindow(90).Oldest(now)
	var days []trail.Delivery
	for i := range 4 { // two events on each of four days, by turns
		days = append(days, at(t, oldest.AddDate(0, 0, i)), at(t, oldest.AddDate(0, 0, 3-i)))
	}
	record(t, store, days...)
	log := asked(db, store.key)
	kept := days[6] // of the last day, at noon
	before, err := log.Prove(t.Context(), kept.Event.ID)
	require.NoError(t, err)

	dropped, err := retention(t, database, 2).Drop(t.Context())
	require.NoError(t, err)
	require.Equal(t, []postgres.Dropped{{Day: oldest, Events: 2}, {Day: oldest.AddDate(0, 0, 1), Events: 2}}, dropped)
	again, err := retention(t, database, 2).Drop(t.Context())
	require.NoError(t, err)
	require.Empty(t, again, "what is gone is not dropped twice")

	require.Equal(t, 4, count(t, db))
	require.Equal(t, []string{partitionOf(oldest.AddDate(0, 0, 2)), partitionOf(oldest.AddDate(0, 0, 3))}, partitions(t, db))
	rows, err := db.Query(t.Context(), "SELECT day::text, events, first_leaf, last_leaf FROM audit.dropped_partitions ORDER BY day")
	require.NoError(t, err)
	notes, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct {
		Day                 string
		Events, First, Last int64
	}])
	require.NoError(t, err)
	require.EqualValues(t, fmt.Sprint([]any{
		fmt.Sprintf("{%s 2 0 7}", oldest.Format(time.DateOnly)), fmt.Sprintf("{%s 2 2 5}", oldest.AddDate(0, 0, 1).Format(time.DateOnly)),
	}), fmt.Sprint(notes))

	after, err := log.Prove(t.Context(), kept.Event.ID)
	require.NoError(t, err)
	require.Equal(t, before, after, "the hashes of what is gone are there")
	requireProof(t, store.key, after)

	late := at(t, oldest)
	verdicts, err := open(t, db).with(store.key).Record(t.Context(), []trail.Delivery{late})
	require.NoError(t, err)
	require.Equal(t, []trail.Verdict{trail.Dead}, verdicts)
	require.Contains(t, letters(t, db)[0].Reason, "retention has removed the day")
	record(t, store, at(t, now))
	var head int64
	require.NoError(t, db.QueryRow(t.Context(), "SELECT size FROM audit.tree").Scan(&head))
	require.EqualValues(t, 9, head)
	answer, err := log.Consistency(t.Context(), before.TreeSize, nil)
	require.NoError(t, err)
	require.EqualValues(t, auditlog.Consistency{From: 8, To: 9, Hashes: answer.Hashes}, answer)
}

func TestADayThatARestoreBroughtBackIsDroppedAgain(t *testing.T) {
	t.Parallel()
	database := testkit.Postgres(t, "audit")
	db, owner := testkit.Open(t, database.AppURL), testkit.Open(t, database.OwnerURL)
	back, later := trail.Day(now.AddDate(0, 0, -81)), trail.Day(now.AddDate(0, 0, -80))
	record(t, open(t, db), at(t, back), at(t, back), at(t, later))
	note := func() (note string) {
		require.NoError(t, db.QueryRow(t.Context(), "SELECT n::text FROM audit.dropped_partitions n WHERE day = $1::date", back).Scan(&note))
		return note
	}
	_, err := owner.Exec(t.Context(), "INSERT INTO audit.dropped_partitions (day, events, first_leaf, last_leaf) VALUES ($1::date, 2, 0, 1)", back)
	require.NoError(t, err)
	before := note()

	dropped, err := retention(t, database, 60).Drop(t.Context())

	require.NoError(t, err)
	require.Equal(t, []postgres.Dropped{{Day: back, Events: 2}, {Day: later, Events: 1}}, dropped)
	require.Empty(t, partitions(t, db))
	require.Equal(t, before, note())
}

func TestProcessesThatRetainAtOnceDropADayOnce(t *testing.T) {
	t.Parallel()
	database := testkit.Postgres(t, "audit")
	db := testkit.Open(t, database.AppURL)
	store := open(t, db)
	for i := range 5 {
		record(t, store, at(t, now.AddDate(0, 0, -80-i)))
	}
	var processes sync.WaitGroup
	for range 4 {
		r := retention(t, database, 60)
		processes.Go(func() {
			_, err := r.Drop(t.Context())
			assert.NoError(t, err)
		})
	}
	processes.Wait()
	require.Empty(t, partitions(t, db))
	var days, events int
	require.NoError(t, db.QueryRow(t.Context(), "SELECT count(*), sum(events) FROM audit.dropped_partitions").Scan(&days, &events))
	require.Equal(t, 5, days)
	require.Equal(t, 5, events)
}

func TestRetentionWaitsForAReaderWithoutHoldingUpWhoStores(t *testing.T) {
	t.Parallel()
	database := testkit.Postgres(t, "audit")
	store := open(t, testkit.Open(t, database.AppURL))
	record(t, store, at(t, now.AddDate(0, 0, -80)))
	reader, other := connect(t, database.AppURL), connect(t, database.AppURL)
	_, err := reader.Exec(t.Context(), "BEGIN; SELECT count(*) FROM audit.events")
	require.NoError(t, err)
	var dropped []postgres.Dropped
	var process sync.WaitGroup
	r := retention(t, database, 60)
	process.Go(func() {
		var err error
		dropped, err = r.Drop(t.Context())
		assert.NoError(t, err)
	})
	waits := 0
	require.Eventually(t, func() bool {
		var waiting bool
		err := other.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM pg_locks JOIN pg_database d ON d.oid = database
			WHERE d.datname = current_database() AND relation = 'audit.events'::regclass AND mode = 'AccessExclusiveLock' AND NOT granted)`).Scan(&waiting)
		if !assert.NoError(t, err) {
			return true
		}
		_, err = other.Exec(t.Context(), "BEGIN; SELECT FROM audit.tree FOR UPDATE NOWAIT; COMMIT")
		if waiting {
			waits++
		}
		return !assert.NoError(t, err, "the sequencer's row is free") || waits > 5
	}, time.Minute, 2*time.Millisecond)
	record(t, store, events(t, 1, 5)...)
	require.Equal(t, 6, count(t, store.DB), "the reader still reads")

	_, err = reader.Exec(t.Context(), "COMMIT")
	require.NoError(t, err)
	process.Wait()
	require.Equal(t, []postgres.Dropped{{Day: trail.Day(now.AddDate(0, 0, -80)), Events: 1}}, dropped)
	require.Equal(t, 5, count(t, store.DB))
}

func TestADayThatGetsAnEventWhileItIsCountedIsCountedAgain(t *testing.T) {
	t.Parallel()
	database := testkit.Postgres(t, "audit")
	store := open(t, testkit.Open(t, database.AppURL))
	day, r := trail.Day(now.AddDate(0, 0, -80)), retention(t, database, 60)
	record(t, store, at(t, day))
	counted, err := postgres.CountDay(r, t.Context(), day)
	require.NoError(t, err)
	record(t, store, at(t, day.Add(time.Hour)))

	require.ErrorIs(t, postgres.DropDay(r, t.Context(), day, counted), postgres.ErrChanged)

	require.Equal(t, 2, count(t, store.DB))
	dropped, err := r.Drop(t.Context())
	require.NoError(t, err)
	require.Equal(t, []postgres.Dropped{{Day: day, Events: 2}}, dropped)
}

func TestRetentionGoesOnWhileEventsAreStoredAndRead(t *testing.T) {
	t.Parallel()
	database := testkit.Postgres(t, "audit")
	db := testkit.Open(t, database.AppURL)
	store := open(t, db)
	for i := range 8 {
		record(t, store, at(t, now.AddDate(0, 0, -80-i)))
	}
	done := make(chan struct{})
	var load sync.WaitGroup
	stored := 0
	load.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			batch := events(t, uint64(stored), 5)
			if _, err := store.Record(t.Context(), batch); !assert.NoError(t, err) {
				return
			}
			stored += len(batch)
		}
	})
	load.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if _, err := store.Get(t.Context(), published(t, 1, nil).Event.ID); !assert.ErrorIs(t, err, trail.ErrNotFound) {
				return
			}
		}
	})
	dropped, err := retention(t, database, 60).Drop(t.Context())
	close(done)
	load.Wait()
	require.NoError(t, err)
	require.Len(t, dropped, 8)
	require.Equal(t, stored, count(t, db))
}

func TestTheDaysAreFoundHoweverPostgresLooksForThem(t *testing.T) {
	t.Parallel()
	conn := connect(t, testkit.Postgres(t, "audit").OwnerURL)
	_, err := conn.Exec(t.Context(), "SELECT audit.ensure_partition(current_date)")
	require.NoError(t, err)
	for _, plan := range []string{"enable_nestloop", "enable_hashjoin", "enable_mergejoin"} {
		_, err := conn.Exec(t.Context(), "RESET ALL; SET "+plan+" = off")
		require.NoError(t, err)
		rows, err := conn.Query(t.Context(), postgres.DaysSQL, "9999-01-01", -1)
		require.NoError(t, err)
		days, err := pgx.CollectRows(rows, pgx.RowTo[time.Time])
		require.NoError(t, err, "without %s", plan)
		require.NotEmpty(t, days)
	}
}
