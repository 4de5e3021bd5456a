package postgres_test

import (
	"database/sql"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/migrations"
	"github.com/sentryagent/agentidp/pkg/testkit"
	"github.com/sentryagent/agentidp/services/audit/internal/postgres"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

// storeBefore stores events as the version before the log did.
func storeBefore(t *testing.T, conn *pgx.Conn, deliveries ...trail.Delivery) {
	t.Helper()
	for _, d := range deliveries {
		e := d.Event
		_, err := conn.Exec(t.Context(), `INSERT INTO audit.events (event_id, timestamp, agent_id, actor_id, action, outcome, service, payload, recorded_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, clock_timestamp())`,
			e.ID, e.Timestamp, e.AgentID, e.ActorID, e.Action, e.Outcome, e.Service, string(d.Payload))
		require.NoError(t, err)
	}
}

// takeBack brings the schema back to the one of before the migration of a name.
func takeBack(t *testing.T, ownerURL, name string) {
	t.Helper()
	db, err := sql.Open("pgx", ownerURL)
	require.NoError(t, err)
	defer func() { _ = db.Close() }()
	files, err := migrations.Files("audit")
	require.NoError(t, err)
	found, err := fs.Glob(files, "*_"+name+".sql")
	require.NoError(t, err)
	require.Len(t, found, 1)
	version, err := goose.NumericComponent(found[0])
	require.NoError(t, err)
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files, goose.WithTableName("audit.goose_db_version"), goose.WithDisableGlobalRegistry(true))
	require.NoError(t, err)
	_, err = provider.DownTo(t.Context(), version-1)
	require.NoError(t, err)
}

func TestEventsOfBeforeTheLogBecomeLeavesOfIt(t *testing.T) {
	t.Parallel()
	database := testkit.Postgres(t, "audit")
	takeBack(t, database.OwnerURL, "log")
	old := connect(t, database.AppURL)
	batch := events(t, 0, 30)
	ambiguous := trail.Delivery{
		Event:   batch[7].Event,
		Payload: []byte(strings.Replace(string(batch[7].Payload), `"outcome":"success"`, `"outcome":"success","outcome":"success"`, 1)),
	}
	batch[7] = ambiguous // was storable, and cannot be a leaf
	batch[8] = at(t, now.AddDate(-1, 0, 0))
	storeBefore(t, old, batch...)
	require.NoError(t, migrations.Apply(t.Context(), "audit", database.OwnerURL, nil))

	owner := testkit.Open(t, database.OwnerURL)
	are, err := postgres.Unsequenced(t.Context(), owner)
	require.NoError(t, err)
	require.True(t, are)
	key := testkit.AuditLogKey(t)
	cfg := sequencing(owner, key)
	cfg.Window = trail.NewWindow(36500)
	// One that was stopped half-way has stored some of them.
	_, err = postgres.NewSequencer(cfg).Record(t.Context(), batch[:5])
	require.NoError(t, err)
	adopted, err := postgres.NewSequencer(cfg).Adopt(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 30, adopted)

	db := testkit.Open(t, database.AppURL)
	requireLog(t, db, key, 29)
	proof, err := asked(db, key).Prove(t.Context(), batch[29].Event.ID)
	require.NoError(t, err)
	require.EqualValues(t, 28, proof.LeafIndex, "in the order in which they were stored")
	found := letters(t, db)
	require.Len(t, found, 1)
	require.Contains(t, found[0].Reason, "cannot be a leaf of the log")
	require.Equal(t, ambiguous.Payload, found[0].Payload)
	are, err = postgres.Unsequenced(t.Context(), owner)
	require.NoError(t, err)
	require.False(t, are, "the old table is gone")

	dropped, err := retention(t, database, 0).Drop(t.Context())
	require.NoError(t, err)
	require.Len(t, dropped, 1, "what lies before the window goes as every event does")
	require.Equal(t, trail.Day(now.AddDate(-1, 0, 0)), dropped[0].Day)
}

func TestEventsOfBeforeTheLogStayWhileOneCannotBeStored(t *testing.T) {
	t.Parallel()
	database := testkit.Postgres(t, "audit")
	takeBack(t, database.OwnerURL, "log")
	storeBefore(t, connect(t, database.AppURL), published(t, 1, nil),
		published(t, 2, func(fields map[string]any) { fields["action"] = "agent.updated" }), published(t, 3, nil))
	require.NoError(t, migrations.Apply(t.Context(), "audit", database.OwnerURL, nil))
	conn, owner := connect(t, database.OwnerURL), testkit.Open(t, database.OwnerURL)
	refuse(t, conn, "agent.updated", "internal_error")
	key := testkit.AuditLogKey(t)

	_, err := postgres.NewSequencer(sequencing(owner, key)).Adopt(t.Context())
	require.ErrorContains(t, err, "cannot be stored now")
	are, err := postgres.Unsequenced(t.Context(), owner)
	require.NoError(t, err)
	require.True(t, are)

	_, err = conn.Exec(t.Context(), "DROP TRIGGER refuse ON audit.events")
	require.NoError(t, err)
	adopted, err := postgres.NewSequencer(sequencing(owner, key)).Adopt(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 3, adopted)
	requireLog(t, owner, key, 3)
}

func TestTheLogCanBeTakenBackWithoutLosingAnEvent(t *testing.T) {
	t.Parallel()
	database := testkit.Postgres(t, "audit")
	store := open(t, testkit.Open(t, database.AppURL))
	record(t, store, append(events(t, 0, 20), at(t, now.Add(-50*24*time.Hour)))...)
	takeBack(t, database.OwnerURL, "log")
	require.Equal(t, 21, count(t, testkit.Open(t, database.AppURL)))
}
