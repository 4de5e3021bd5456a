package postgres_test

import (
	"strings"
	"testing"
	"time"

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

// requireRefused runs a statement that must be refused for lack of the right to it.
func requireRefused(t *testing.T, conn *pgx.Conn, statement, who string) {
	t.Helper()
	_, err := conn.Exec(t.Context(), statement)
	var refused *pgconn.PgError
	require.ErrorAs(t, err, &refused, "%s by %s", statement, who)
	require.Equal(t, "42501", refused.Code, "%s by %s: %s", statement, who, refused.Message)
}

func TestNoRoleChangesAnEvent(t *testing.T) {
	t.Parallel()
	database := testkit.Postgres(t, "audit")
	db := testkit.Open(t, database.AppURL)
	store := open(t, db)
	record(t, store, published(t, 1, nil))
	partition := partitionOf(now)
	statements := []string{
		"UPDATE audit.events SET outcome = 'failure'",
		"UPDATE audit.events SET outcome = 'failure' WHERE false",
		"UPDATE audit.events SET timestamp = timestamp + interval '1 day'",
		"DELETE FROM audit.events",
		"TRUNCATE audit.events",
		"TRUNCATE audit.events CASCADE",
		`INSERT INTO audit.events SELECT * FROM audit.events ON CONFLICT (event_id, timestamp) DO UPDATE SET outcome = 'failure'`,
		`MERGE INTO audit.events e USING (SELECT 1) s ON true WHEN MATCHED THEN DELETE`,
		"UPDATE " + partition + " SET outcome = 'failure'",
		"DELETE FROM " + partition,
		"TRUNCATE " + partition,
		"DELETE FROM audit.tiles",
		"TRUNCATE audit.tiles",
		"UPDATE audit.tiles SET data = sha256('other')",
		"DELETE FROM audit.tree",
		"TRUNCATE audit.tree",
		"UPDATE audit.tree SET size = 0, frontier = ''",
		"UPDATE audit.tree SET root = sha256('other')",
		"DELETE FROM audit.dropped_partitions",
		"TRUNCATE audit.dropped_partitions",
		"UPDATE audit.dropped_partitions SET events = 0",
	}
	roles := map[string]string{"the service's role": database.AppURL, "the owner": database.OwnerURL, "the superuser": database.AdminURL}
	for role, url := range roles {
		conn := connect(t, url)
		for _, statement := range statements {
			requireRefused(t, conn, statement, role)
		}
	}
	requireLog(t, db, store.key, 1)
}

func TestTheTriggersHoldInASessionThatPlaysAReplica(t *testing.T) {
	t.Parallel()
	database := testkit.Postgres(t, "audit")
	record(t, open(t, testkit.Open(t, database.AppURL)), published(t, 1, nil))
	admin := connect(t, database.AdminURL)
	_, err := admin.Exec(t.Context(), "SET session_replication_role = replica")
	require.NoError(t, err)
	for _, statement := range []string{
		"DELETE FROM audit.events", "DELETE FROM " + partitionOf(now), "DELETE FROM audit.tiles", "UPDATE audit.tree SET size = 0",
	} {
		requireRefused(t, admin, statement, "the superuser as a replica")
	}
}

func TestTheServicesRoleHasNoMoreThanItNeeds(t *testing.T) {
	t.Parallel()
	database := testkit.Postgres(t, "audit")
	record(t, open(t, testkit.Open(t, database.AppURL)), published(t, 1, nil))
	conn := connect(t, database.AppURL)
	for statement := range strings.Lines(`
		UPDATE audit.dead_letters SET reason = ''
		DELETE FROM audit.dead_letters
		TRUNCATE audit.dead_letters
		ALTER TABLE audit.events DISABLE TRIGGER ALL
		ALTER TABLE audit.events DISABLE TRIGGER events_immutable
		ALTER TABLE $today DISABLE TRIGGER events_immutable
		ALTER TABLE $today ENABLE REPLICA TRIGGER events_immutable
		ALTER TABLE audit.tiles DISABLE TRIGGER ALL
		DROP TRIGGER events_immutable ON audit.events
		DROP TRIGGER events_immutable ON $today
		DROP TABLE audit.events
		DROP TABLE $today
		DROP TABLE audit.tiles
		DROP TABLE audit.tree
		DROP SCHEMA audit CASCADE
		DROP FUNCTION audit.refuse_change() CASCADE
		ALTER TABLE audit.events DETACH PARTITION $today
		ALTER TABLE audit.events RENAME TO other
		ALTER TABLE audit.events ALTER COLUMN payload TYPE text
		ALTER TABLE audit.events OWNER TO audit_app
		CREATE RULE r AS ON INSERT TO audit.events DO INSTEAD NOTHING
		CREATE TRIGGER t BEFORE INSERT ON audit.events FOR EACH ROW EXECUTE FUNCTION audit.refuse_change()
		CREATE OR REPLACE FUNCTION audit.refuse_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'
		INSERT INTO $today SELECT * FROM audit.events
		SELECT * FROM $today
		INSERT INTO audit.tree DEFAULT VALUES
		INSERT INTO audit.dropped_partitions VALUES ('2020-01-01', 0)
		INSERT INTO audit.day_counts VALUES (NULL, NULL, '2020-01-01', 'x', 'success', 1)
		UPDATE audit.day_counts SET events = events + 1
		DELETE FROM audit.day_counts
		TRUNCATE audit.day_counts
		SELECT audit.count_day('2020-01-01')
		ALTER TABLE audit.events DISABLE TRIGGER events_counted
		CREATE OR REPLACE FUNCTION audit.counted_as(agent uuid, actor uuid) RETURNS TABLE (agent_id uuid, actor_id uuid) LANGUAGE sql AS 'SELECT NULL::uuid, NULL::uuid WHERE false'
		CREATE TABLE audit.mine (x int)
		CREATE TABLE public.mine (x int)
		SET session_replication_role = replica
		SET ROLE audit_owner
		GRANT audit_owner TO audit_app
		DELETE FROM audit.goose_db_version`) {
		if statement = strings.TrimSpace(statement); statement != "" {
			requireRefused(t, conn, strings.ReplaceAll(statement, "$today", partitionOf(now)), "the service's role")
		}
	}
}

func TestTheServicesRoleHasTheOwnerDoNothingElse(t *testing.T) {
	t.Parallel()
	database := testkit.Postgres(t, "audit")
	db := testkit.Open(t, database.AppURL)
	record(t, open(t, db), published(t, 1, nil))
	conn := connect(t, database.AppURL)
	do := func(statement string) {
		t.Helper()
		_, err := conn.Exec(t.Context(), statement)
		require.NoError(t, err, statement)
	}
	// Where the role may make temporary objects, as it may unless somebody has taken the right from everybody.
	do("CREATE TEMP TABLE mine (agent_id uuid, actor_id uuid, timestamp timestamptz, action text, outcome text)")
	requireRefused(t, conn, `CREATE TRIGGER counted AFTER INSERT ON mine REFERENCING NEW TABLE AS added
		FOR EACH STATEMENT EXECUTE FUNCTION audit.count_added()`, "the service's role")
	do(`CREATE FUNCTION pg_temp.mine(text) RETURNS boolean LANGUAGE plpgsql AS
		'BEGIN RAISE EXCEPTION ''this runs as %'', current_user; END'`)
	for _, kind := range []string{"date", "text", "int8", "regnamespace"} {
		do("CREATE DOMAIN pg_temp." + kind + " AS pg_catalog." + kind + " CHECK (pg_temp.mine(VALUE::pg_catalog.text))")
	}
	do(`INSERT INTO audit.events (event_id, timestamp, leaf_index, action, outcome, service, payload)
		SELECT gen_random_uuid(), timestamp, 1, action, outcome, service, payload FROM audit.events`)
	do("SELECT audit.ensure_partition(current_date + 20)")
	requireCounts(t, db)
}

func TestTheServicesRoleCannotBlockTheLog(t *testing.T) {
	t.Parallel()
	database := testkit.Postgres(t, "audit")
	db := testkit.Open(t, database.AppURL)
	store := open(t, db)
	record(t, store, events(t, 0, 300)...)
	conn := connect(t, database.AppURL)
	const hash, key = "sha256('x')", "UPDATE audit.tree SET public_key = 'mine'"
	statements := map[string]string{
		"a tile of leaves to come":         "INSERT INTO audit.tiles VALUES (0, 2, " + hash + ")",
		"a tile far ahead":                 "INSERT INTO audit.tiles VALUES (0, 9223372036854775807, " + hash + ")",
		"a tile of a level to come":        "INSERT INTO audit.tiles VALUES (2, 0, " + hash + ")",
		"a last tile that grows":           "UPDATE audit.tiles SET data = data || " + hash + " WHERE level = 0 AND index = 1",
		"a tile of a level above":          "UPDATE audit.tiles SET data = data || " + hash + " WHERE level = 1",
		"a head without tiles":             "UPDATE audit.tree SET size = size + 4, frontier = frontier || " + hash,
		"a head with a part of its tiles":  "UPDATE audit.tree SET size = 303, frontier = repeat('x', 32 * 6)::bytea; UPDATE audit.tiles SET data = data || " + hash + " WHERE level = 0 AND index = 1",
		"a head with another's frontier":   "UPDATE audit.tree SET size = 301; UPDATE audit.tiles SET data = data || " + hash + " WHERE level = 0 AND index = 1",
		"a head that is looked at at once": "SET CONSTRAINTS ALL IMMEDIATE; UPDATE audit.tree SET size = size + 1",
		"a head at the end of all":         "UPDATE audit.tree SET size = 4611686018427387904",
		"a step of too many leaves":        "UPDATE audit.tree SET size = size + 10001",
		"another's key":                    key,
	}
	for name, statement := range statements {
		requireRefused(t, conn, statement, name)
	}
	record(t, store, events(t, 300, 500)...)
	requireLog(t, db, store.key, 800)

	// Who may act as the owner may also say that the log has another key, and nobody else whatever its name.
	admin := connect(t, database.AdminURL)
	_, err := admin.Exec(t.Context(), "BEGIN; CREATE ROLE audit_other; GRANT audit_app TO audit_other; GRANT USAGE ON SCHEMA audit TO audit_other; SET LOCAL ROLE audit_other")
	require.NoError(t, err)
	requireRefused(t, admin, key, "another role with the rights of the service's")
	_, err = admin.Exec(t.Context(), "ROLLBACK; BEGIN; SET LOCAL ROLE audit_owner; "+key+"; ROLLBACK")
	require.NoError(t, err)
}

func TestADayIsMadeByTheServicesRoleAndBelongsToTheOwner(t *testing.T) {
	t.Parallel()
	database := testkit.Postgres(t, "audit")
	conn := connect(t, database.AppURL)
	tomorrow := now.AddDate(0, 0, 1)
	for _, made := range []bool{true, false} {
		var is bool
		require.NoError(t, conn.QueryRow(t.Context(), "SELECT audit.ensure_partition($1::text::date)", tomorrow.Format(time.DateOnly)).Scan(&is))
		require.Equal(t, made, is)
	}
	var owner string
	require.NoError(t, conn.QueryRow(t.Context(), "SELECT relowner::regrole::text FROM pg_class WHERE oid = $1::text::regclass", partitionOf(tomorrow)).Scan(&owner))
	require.Equal(t, "audit_owner", owner)
	testkit.Postgres(t, "registry") // makes the role, which belongs to the whole server
	other := connect(t, testkit.Database{AdminURL: database.AdminURL}.For("registry").AppURL)
	requireRefused(t, other, "SELECT audit.ensure_partition('2026-01-01')", "another service's role")
}
