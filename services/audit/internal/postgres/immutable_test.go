package postgres_test

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/testkit"
)

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(t.Context()) })
	return conn
}

func TestNoRoleChangesAnEvent(t *testing.T) {
	t.Parallel()
	database := testkit.Postgres(t, "audit")
	db := testkit.Open(t, database.AppURL)
	record(t, open(t, db), published(t, 1, nil))
	statements := map[string]string{
		"update":                    "UPDATE audit.events SET outcome = 'failure'",
		"update of no row":          "UPDATE audit.events SET outcome = 'failure' WHERE false",
		"delete":                    "DELETE FROM audit.events",
		"truncate":                  "TRUNCATE audit.events",
		"truncate of all, cascaded": "TRUNCATE audit.events CASCADE",
		"upsert": `INSERT INTO audit.events SELECT * FROM audit.events
			ON CONFLICT (event_id, timestamp) DO UPDATE SET outcome = 'failure'`,
		"merge": `MERGE INTO audit.events e USING (SELECT 1) s ON true WHEN MATCHED THEN DELETE`,
	}
	roles := map[string]string{"the service's role": database.AppURL, "the owner": database.OwnerURL, "the superuser": database.AdminURL}
	for role, url := range roles {
		conn := connect(t, url)
		for name, statement := range statements {
			_, err := conn.Exec(t.Context(), statement)
			var refused *pgconn.PgError
			require.ErrorAs(t, err, &refused, "%s by %s", name, role)
			require.Equal(t, "42501", refused.Code, "%s by %s: %s", name, role, refused.Message)
		}
	}
	require.Equal(t, 1, count(t, db))
}

func TestTheTriggerHoldsInASessionThatPlaysAReplica(t *testing.T) {
	t.Parallel()
	database := testkit.Postgres(t, "audit")
	record(t, open(t, testkit.Open(t, database.AppURL)), published(t, 1, nil))
	admin := connect(t, database.AdminURL)
	_, err := admin.Exec(t.Context(), "SET session_replication_role = replica")
	require.NoError(t, err)
	_, err = admin.Exec(t.Context(), "DELETE FROM audit.events")
	require.ErrorContains(t, err, "audit events are immutable")
}

func TestTheServicesRoleHasNoMoreThanItNeeds(t *testing.T) {
	t.Parallel()
	conn := connect(t, testkit.Postgres(t, "audit").AppURL)
	for _, statement := range []string{
		"UPDATE audit.dead_letters SET reason = ''",
		"DELETE FROM audit.dead_letters",
		"TRUNCATE audit.dead_letters",
		"ALTER TABLE audit.events DISABLE TRIGGER ALL",
		"DROP TRIGGER events_immutable ON audit.events",
		"DROP TABLE audit.events",
		"CREATE TABLE audit.mine (x int)",
		"CREATE TABLE public.mine (x int)",
		"SET session_replication_role = replica",
		"SELECT * FROM audit.goose_db_version",
	} {
		_, err := conn.Exec(t.Context(), statement)
		var refused *pgconn.PgError
		require.ErrorAs(t, err, &refused, statement)
		require.Equal(t, "42501", refused.Code, "%s: %s", statement, refused.Message)
	}
}
