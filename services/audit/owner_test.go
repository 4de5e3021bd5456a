package audit_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/testkit"
	"github.com/sentryagent/agentidp/services/audit"
)

func ask[T any](t *testing.T, url, sql string, args ...any) (answer T) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	defer func() { _ = conn.Close(t.Context()) }()
	require.NoError(t, conn.QueryRow(t.Context(), sql, args...).Scan(&answer))
	return answer
}

// makeDay makes the partition of a day so many days ago.
func makeDay(t *testing.T, database testkit.Database, ago int) {
	t.Helper()
	require.True(t, ask[bool](t, database.AppURL, "SELECT audit.ensure_partition($1::text::date)",
		time.Now().UTC().AddDate(0, 0, -ago).Format(time.DateOnly)))
}

const (
	countDays    = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'audit.events'::regclass"
	countDropped = "SELECT count(*) FROM audit.dropped_partitions"
)

func TestTheRetentionCommandDropsWhatIsPastAndMakesWhatComes(t *testing.T) {
	t.Parallel()
	database := testkit.Postgres(t, "audit")
	for _, ago := range []int{40, 32, 10} {
		makeDay(t, database, ago)
	}
	settings := map[string]string{"MIGRATE_DATABASE_URL": database.OwnerURL, "AUDIT_RETENTION_DAYS": "30"}
	for range 2 {
		require.NoError(t, audit.Retain(t.Context(), testkit.Environment(settings)))
		require.Equal(t, 2, ask[int](t, database.AppURL, countDropped))
		require.Equal(t, 1+8, ask[int](t, database.AppURL, countDays))
	}
	require.ErrorContains(t, audit.Retain(t.Context(), testkit.Environment(nil)), "MIGRATE_DATABASE_URL")
	settings["AUDIT_RETENTION_DAYS"] = "0"
	require.ErrorContains(t, audit.Retain(t.Context(), testkit.Environment(settings)), "AUDIT_RETENTION_DAYS")
}

func TestAReplicaThatHasTheOwnersURLRetainsByItself(t *testing.T) {
	t.Parallel()
	database := testkit.Postgres(t, "audit")
	makeDay(t, database, 95)
	makeDay(t, database, 10)
	setupWith(t, database, map[string]string{"AUDIT_RETENTION_DATABASE_URL": database.OwnerURL})
	require.Eventually(t, func() bool { return ask[int](t, database.AppURL, countDropped) == 1 }, patience, 50*time.Millisecond)
}

func TestAReplicaThatHasNotDropsNothing(t *testing.T) {
	t.Parallel()
	database := testkit.Postgres(t, "audit")
	makeDay(t, database, 95)
	setupWith(t, database, nil)
	require.Eventually(t, func() bool { return ask[int](t, database.AppURL, countDays) == 1+8 }, patience, 50*time.Millisecond,
		"it makes the coming days")
	require.Zero(t, ask[int](t, database.AppURL, countDropped))
}

func TestMigrateTakesEventsOfBeforeIntoTheLogAndNeedsItsKeyForThat(t *testing.T) {
	t.Parallel()
	database := testkit.Postgres(t, "audit")
	message, err := auditevent.New(uuid.Must(uuid.NewV7()), time.Now(), "registry", auditevent.AgentCreated, nil, auditevent.Origin{}, nil).Message()
	require.NoError(t, err)
	owner, err := pgx.Connect(t.Context(), database.OwnerURL)
	require.NoError(t, err)
	defer func() { _ = owner.Close(t.Context()) }()
	_, err = owner.Exec(t.Context(), "CREATE TABLE audit.events_unsequenced (event_id uuid, recorded_at timestamptz DEFAULT now(), payload json)")
	require.NoError(t, err)
	_, err = owner.Exec(t.Context(), "INSERT INTO audit.events_unsequenced VALUES ($1, now(), $2)", message.ID.String(), string(message.Payload))
	require.NoError(t, err)

	settings := map[string]string{"MIGRATE_DATABASE_URL": database.OwnerURL}
	require.ErrorContains(t, audit.Migrate(t.Context(), testkit.Environment(settings)), "AUDIT_LOG_KEY")
	settings["AUDIT_LOG_KEY"] = "nonsense"
	require.ErrorContains(t, audit.Migrate(t.Context(), testkit.Environment(settings)), "AUDIT_LOG_KEY")
	key := testkit.AuditLogKey(t)
	settings["AUDIT_LOG_KEY"] = key.Secret
	for range 2 {
		require.NoError(t, audit.Migrate(t.Context(), testkit.Environment(settings)))
	}
	require.Equal(t, 1, ask[int](t, database.AppURL, "SELECT count(*) FROM audit.events WHERE leaf_index = 0"))
	require.True(t, strings.HasPrefix(ask[string](t, database.AppURL, "SELECT checkpoint FROM audit.tree"), testkit.LogOrigin+"\n1\n"))
}
