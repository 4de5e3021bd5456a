package replica_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/migrations"
	"github.com/sentryagent/agentidp/pkg/replica"
	"github.com/sentryagent/agentidp/pkg/testkit"
)

// started is a replica that runs on a database, and does one piece of work of each kind.
type started struct {
	internal         string
	atOnce, migrated chan struct{} // closed when the work begins
	stop             context.CancelFunc
	ended            chan error
}

func start(t *testing.T, service, databaseURL string) *started {
	t.Helper()
	var cfg replica.Config
	require.NoError(t, replica.Load(service, &cfg, environment(map[string]string{"DATABASE_URL": databaseURL})))
	r, err := replica.Open(t.Context(), service, cfg)
	require.NoError(t, err)
	server, err := r.Server(nil, func(context.Context) error { return nil })
	require.NoError(t, err)
	require.NoError(t, server.Listen())
	ctx, stop := context.WithCancel(t.Context())
	s := &started{
		internal: "http://" + server.InternalAddr(), stop: stop, ended: make(chan error, 1),
		atOnce: make(chan struct{}), migrated: make(chan struct{}),
	}
	begins := func(told chan struct{}) []func(context.Context) error {
		return []func(context.Context) error{func(work context.Context) error {
			close(told)
			<-work.Done()
			return nil
		}}
	}
	go func() {
		s.ended <- r.Run(ctx, server, replica.Work{AtOnce: begins(s.atOnce), OnceMigrated: begins(s.migrated)})
	}()
	t.Cleanup(stop)
	return s
}

// readiness is the status of /readyz, and the reason that it shows.
func (s *started) readiness(t *testing.T) (status int, reason string) {
	t.Helper()
	resp, err := http.Get(s.internal + "/readyz")
	require.NoError(t, err)
	defer func() { require.NoError(t, resp.Body.Close()) }()
	var body struct{ Details struct{ Reason string } }
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&body))
	return resp.StatusCode, body.Details.Reason
}

func (s *started) metrics(t *testing.T) string {
	t.Helper()
	resp, err := http.Get(s.internal + "/metrics")
	require.NoError(t, err)
	defer func() { require.NoError(t, resp.Body.Close()) }()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return string(text)
}

func begun(told chan struct{}) bool {
	select {
	case <-told:
		return true
	default:
		return false
	}
}

// migrateTo takes a schema that is up to date back to a version.
func migrateTo(t *testing.T, service, ownerURL string, version int64) {
	t.Helper()
	db, err := sql.Open("pgx", ownerURL)
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	files, err := migrations.Files(service)
	require.NoError(t, err)
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files,
		goose.WithTableName(service+".goose_db_version"), goose.WithDisableGlobalRegistry(true))
	require.NoError(t, err)
	_, err = provider.DownTo(t.Context(), version)
	require.NoError(t, err)
}

func TestAReplicaWaitsForItsSchemaAndIsReadyAsSoonAsItIsThere(t *testing.T) {
	t.Parallel()
	for _, service := range migrations.Services() {
		t.Run(service, func(t *testing.T) {
			t.Parallel()
			needed, err := migrations.Needed(service)
			require.NoError(t, err)
			db := testkit.Postgres(t, service)
			migrateTo(t, service, db.OwnerURL, needed-1)
			s := start(t, service, db.AppURL)
			<-s.atOnce
			for range 3 {
				status, reason := s.readiness(t)
				require.Equal(t, http.StatusServiceUnavailable, status)
				require.Contains(t, reason, "run "+service+" migrate")
			}
			require.False(t, begun(s.migrated), "work on a schema that is older than needed")

			require.NoError(t, migrations.Apply(t.Context(), service, db.OwnerURL, nil))
			<-s.migrated // nobody asked /readyz: the replica looks itself
			status, _ := s.readiness(t)
			require.Equal(t, http.StatusOK, status)
			s.stop()
			require.NoError(t, <-s.ended)
		})
	}
}

func TestReadinessNamesTheVersionThatIsThereAndTheOneThatIsNeeded(t *testing.T) {
	t.Parallel()
	db := testkit.Postgres(t, "registry")
	owner := testkit.Open(t, db.OwnerURL)
	_, err := owner.Exec(t.Context(), "DELETE FROM registry.goose_db_version WHERE version_id > 1")
	require.NoError(t, err)
	s := start(t, "registry", db.AppURL)
	_, reason := s.readiness(t)
	needed, err := migrations.Needed("registry")
	require.NoError(t, err)
	require.Equal(t, fmt.Sprintf("the schema registry is at version 1, and version %d is needed: run registry migrate", needed), reason)
	require.Contains(t, s.metrics(t), "agentidp_schema_version 1\n")
	require.Contains(t, s.metrics(t), fmt.Sprintf("agentidp_schema_version_needed %d\n", needed))

	_, err = owner.Exec(t.Context(), "INSERT INTO registry.goose_db_version (version_id, is_applied) VALUES (999, true)")
	require.NoError(t, err)
	status, _ := s.readiness(t)
	require.Equal(t, http.StatusOK, status, "a newer schema is fine")
	<-s.migrated
	_, err = owner.Exec(t.Context(), "DROP TABLE registry.goose_db_version")
	require.NoError(t, err)
	status, _ = s.readiness(t)
	require.Equal(t, http.StatusOK, status, "a schema that was there is not asked for again")
}

func TestADatabaseThatIsAwayIsNoSchemaThatIsTooOld(t *testing.T) {
	t.Parallel()
	s := start(t, "registry", "postgres://nobody@127.0.0.1:1/none")
	<-s.atOnce
	status, reason := s.readiness(t)
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Empty(t, reason, "where the database is, is not shown")
	require.False(t, begun(s.migrated))
	s.stop()
	select {
	case err := <-s.ended:
		require.NoError(t, err)
	case <-time.After(20 * time.Second):
		require.Fail(t, "a replica that waits for its schema does not stop")
	}
}

func TestADatabaseWithoutTheSchemaIsWaitedFor(t *testing.T) {
	t.Parallel()
	db := testkit.Postgres(t, "registry").For("token") // has no schema of this service
	s := start(t, "token", db.AdminURL)
	status, reason := s.readiness(t)
	require.Equal(t, http.StatusServiceUnavailable, status)
	needed, err := migrations.Needed("token")
	require.NoError(t, err)
	require.Contains(t, reason, fmt.Sprintf("no version that this service could read, and version %d is needed", needed))
}
