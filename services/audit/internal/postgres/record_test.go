package postgres_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/pkg/testkit"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

// letter is a row of audit.dead_letters.
type letter struct {
	Sequence int64  `db:"stream_sequence"`
	Subject  string `db:"subject"`
	Reason   string `db:"reason"`
	Payload  []byte `db:"payload"`
	Size     int64  `db:"payload_bytes"`
}

func letters(t *testing.T, db *pgdb.DB) []letter {
	t.Helper()
	rows, err := db.Query(t.Context(), `SELECT stream_sequence, subject, reason, payload, payload_bytes
		FROM audit.dead_letters ORDER BY stream_sequence`)
	require.NoError(t, err)
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[letter])
	require.NoError(t, err)
	return found
}

func count(t *testing.T, db *pgdb.DB) (events int) {
	t.Helper()
	require.NoError(t, db.QueryRow(t.Context(), "SELECT count(*) FROM audit.events").Scan(&events))
	return events
}

func TestRecordStoresAnEventOnce(t *testing.T) {
	t.Parallel()
	db := testkit.DB(t, "audit")
	store := open(t, db)
	first, second, third := published(t, 1, nil), published(t, 2, nil), published(t, 3, nil)
	record(t, store, first)

	verdicts, err := store.Record(t.Context(), []trail.Delivery{first, second, second, third})

	require.NoError(t, err)
	require.Equal(t, []trail.Verdict{trail.Duplicate, trail.Stored, trail.Duplicate, trail.Stored}, verdicts)
	require.Equal(t, 3, count(t, db))
	require.Empty(t, letters(t, db))
}

func TestReplicasThatRecordTheSameEventsStoreThemOnce(t *testing.T) {
	t.Parallel()
	db := testkit.DB(t, "audit")
	store := open(t, db)
	var batch []trail.Delivery
	for i := range uint64(200) {
		batch = append(batch, published(t, i, nil))
	}
	var replicas sync.WaitGroup
	stored := make([]int, 4)
	for replica := range stored {
		replicas.Go(func() {
			// Each replica has them in another order, which is how locks could cross.
			mine := append(append([]trail.Delivery{}, batch[replica*50:]...), batch[:replica*50]...)
			verdicts, err := store.Record(t.Context(), mine)
			assert.NoError(t, err)
			for _, verdict := range verdicts {
				if verdict == trail.Stored {
					stored[replica]++
				}
			}
		})
	}
	replicas.Wait()
	require.Equal(t, 200, stored[0]+stored[1]+stored[2]+stored[3])
	require.Equal(t, 200, count(t, db))
}

func TestRecordKeepsWhatIsNoEventAsADeadLetter(t *testing.T) {
	t.Parallel()
	db := testkit.DB(t, "audit")
	store := open(t, db)
	raw := []byte("no event \x00\xff")
	dead := trail.Delivery{Origin: origin(7), Reject: "not valid UTF-8", Payload: raw}
	dead.Origin.Subject = "audit.\x00\xff"
	good := published(t, 8, nil)

	for range 2 { // redelivered because the termination got lost
		verdicts, err := store.Record(t.Context(), []trail.Delivery{dead, good})
		require.NoError(t, err)
		require.Equal(t, trail.Dead, verdicts[0])
	}

	require.Equal(t, 1, count(t, db))
	require.Equal(t, []letter{{
		Sequence: 7, Subject: "audit.\uFFFD\uFFFD", Reason: "not valid UTF-8", Payload: raw, Size: int64(len(raw)),
	}}, letters(t, db))
}

func TestDeadLettersOfARecreatedStreamAreKeptToo(t *testing.T) {
	t.Parallel()
	db := testkit.DB(t, "audit")
	store := open(t, db)
	before := trail.Delivery{Origin: origin(1), Reject: "no", Payload: []byte("before")}
	after := trail.Delivery{Origin: origin(1), Reject: "no", Payload: []byte("after")}
	after.Origin.PublishedAt = now.Add(time.Hour)
	_, err := store.Record(t.Context(), []trail.Delivery{before, after})
	require.NoError(t, err)
	require.Len(t, letters(t, db), 2)
}

func TestADeadLetterIsBounded(t *testing.T) {
	t.Parallel()
	db := testkit.DB(t, "audit")
	huge := trail.Delivery{
		Origin: origin(1), Reject: strings.Repeat("r", 5000), Payload: bytes.Repeat([]byte("x"), trail.MaxDeadPayload+1),
	}
	_, err := open(t, db).Record(t.Context(), []trail.Delivery{huge})
	require.NoError(t, err)
	found := letters(t, db)
	require.Len(t, found, 1)
	require.Len(t, found[0].Payload, trail.MaxDeadPayload)
	require.EqualValues(t, trail.MaxDeadPayload+1, found[0].Size)
	require.Len(t, found[0].Reason, 1024)
}

func TestOneRowThatPostgresRefusesDoesNotBlockTheOthers(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		spoil  func(d *trail.Delivery)
		reason string
	}{
		"a NUL in a text column":     {func(d *trail.Delivery) { d.Event.Service = "a\x00b" }, "SQLSTATE 22021"},
		"an outcome the table lacks": {func(d *trail.Delivery) { d.Event.Outcome = "maybe" }, "SQLSTATE 23514"},
		"a payload that is no JSON":  {func(d *trail.Delivery) { d.Event.Payload = []byte("{") }, "SQLSTATE 22P02"},
		"a key past what an index holds": {func(d *trail.Delivery) {
			// Hard to compress, for Postgres compresses before it measures.
			var action strings.Builder
			for range 1000 {
				action.WriteString(published(t, 1, nil).Event.ID.String())
			}
			d.Event.Action = action.String()
		}, "SQLSTATE 54000"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := testkit.DB(t, "audit")
			batch := []trail.Delivery{published(t, 1, nil), published(t, 2, nil), published(t, 3, nil)}
			test.spoil(&batch[1])
			payload := batch[1].Payload

			verdicts, err := open(t, db).Record(t.Context(), batch)

			require.NoError(t, err)
			require.Equal(t, []trail.Verdict{trail.Stored, trail.Dead, trail.Stored}, verdicts)
			require.Equal(t, 2, count(t, db))
			found := letters(t, db)
			require.Len(t, found, 1)
			require.Contains(t, found[0].Reason, test.reason)
			require.Equal(t, payload, found[0].Payload, "the message as received")
		})
	}
}

func TestAFewRowsThatPostgresRefusesCostAFewStatements(t *testing.T) {
	t.Parallel()
	for name, bad := range map[string][]int{
		"the first": {0}, "the last": {499}, "one in the middle": {250}, "the most costly one": {245}, "two side by side": {99, 100}, "two apart": {17, 400},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tel := telemetry.Discard("audit")
			db, err := pgdb.Open(t.Context(), pgdb.Config{URL: config.Secret(testkit.Postgres(t, "audit").AppURL), MaxConns: 2}, tel)
			require.NoError(t, err)
			t.Cleanup(db.Close)
			store := open(t, db)
			batch, want := events(t, 0, 500), slices.Repeat([]trail.Verdict{trail.Stored}, 500)
			for _, i := range bad {
				batch[i].Event.Payload, want[i] = []byte("{"), trail.Dead
			}

			verdicts, err := store.Record(t.Context(), batch)

			require.NoError(t, err)
			require.Equal(t, want, verdicts)
			requireLog(t, db, store.key, int64(len(batch)-len(bad)))
			require.LessOrEqual(t, inserts(t, tel), uint64(4*9*len(bad)), "500 is less than 2 to the 9th")
		})
	}
}

// inserts is how often events were written.
func inserts(t *testing.T, tel *telemetry.Telemetry) uint64 {
	t.Helper()
	families, err := tel.Metrics.Registry.Gather()
	require.NoError(t, err)
	for _, family := range families {
		if family.GetName() != "agentidp_db_query_duration_seconds" {
			continue
		}
		for _, m := range family.GetMetric() {
			if m.GetLabel()[0].GetValue() == "event_insert" {
				return m.GetHistogram().GetSampleCount()
			}
		}
	}
	require.Fail(t, "nothing was written")
	return 0
}

// refuse has Postgres refuse events with an action, with an error of this name or code.
func refuse(t *testing.T, owner *pgx.Conn, action, fault string) {
	t.Helper()
	_, err := owner.Exec(t.Context(), fmt.Sprintf(`
		CREATE FUNCTION audit.refuse_event() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = '%s'; END $$;
		CREATE TRIGGER refuse BEFORE INSERT ON audit.events
			FOR EACH ROW WHEN (NEW.action = '%s') EXECUTE FUNCTION audit.refuse_event()`, fault, action))
	require.NoError(t, err)
}

func TestARefusalThatIsNotTheRowsFaultIsTriedAgain(t *testing.T) {
	t.Parallel()
	database := testkit.Postgres(t, "audit")
	// Stands for a fault of the server that strikes one row: neither the row's
	// data nor an outage.
	refuse(t, connect(t, database.OwnerURL), "agent.updated", "internal_error")
	db := testkit.Open(t, database.AppURL)
	batch := []trail.Delivery{
		published(t, 1, nil),
		published(t, 2, func(fields map[string]any) { fields["action"] = "agent.updated" }),
		{Origin: origin(3), Reject: "no event", Payload: []byte("x")},
	}

	verdicts, err := open(t, db).Record(t.Context(), batch)

	require.NoError(t, err)
	require.Equal(t, []trail.Verdict{trail.Stored, trail.Retry, trail.Dead}, verdicts)
	require.Equal(t, 1, count(t, db))
}

func TestAnOutageThatBeginsBehindARefusedRowIsAnError(t *testing.T) {
	t.Parallel()
	for _, fault := range []string{"disk_full", "query_canceled"} {
		database := testkit.Postgres(t, "audit")
		refuse(t, connect(t, database.OwnerURL), "agent.updated", fault)
		db := testkit.Open(t, database.AppURL)
		batch := []trail.Delivery{published(t, 1, nil), published(t, 2, func(fields map[string]any) { fields["action"] = "agent.updated" })}
		batch[0].Event.Payload = []byte("{")

		_, err := open(t, db).Record(t.Context(), batch)

		require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err), fault)
		require.Zero(t, count(t, db))
		require.Empty(t, letters(t, db))
	}
}

func TestAFaultThatStrikesEveryRowIsAnErrorAndNotRetriedInSilence(t *testing.T) {
	t.Parallel()
	database := testkit.Postgres(t, "audit")
	_, err := connect(t, database.OwnerURL).Exec(t.Context(), "REVOKE INSERT ON audit.events FROM audit_app")
	require.NoError(t, err)
	db := testkit.Open(t, database.AppURL)

	_, err = open(t, db).Record(t.Context(), []trail.Delivery{published(t, 1, nil), published(t, 2, nil)})

	require.ErrorContains(t, err, "42501")
	require.Zero(t, count(t, db))
}
