package testkit_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/migrations"
	"github.com/sentryagent/agentidp/pkg/natsx"
	"github.com/sentryagent/agentidp/pkg/testkit"
)

func TestPostgresGivesEveryTestADatabaseOfItsOwn(t *testing.T) {
	t.Parallel()
	for range 4 {
		t.Run("one of several at once", func(t *testing.T) {
			t.Parallel()
			db := testkit.DB(t, "registry")
			_, err := db.Exec(context.Background(), "INSERT INTO registry.outbox (event_id, subject, payload) VALUES (gen_random_uuid(), 'audit.test', '')")
			require.NoError(t, err)
			var rows int
			require.NoError(t, db.QueryRow(context.Background(), "SELECT count(*) FROM registry.outbox").Scan(&rows))
			require.Equal(t, 1, rows, "a row of another test is visible")
		})
	}
}

func TestPostgresHasTheSchemasOfAllServicesWhenNoneIsNamed(t *testing.T) {
	t.Parallel()
	all := testkit.Postgres(t, "")
	for _, service := range migrations.Services() {
		db := testkit.Open(t, all.For(service).OwnerURL)
		_, err := db.Exec(context.Background(), "SELECT 1 FROM "+service+".goose_db_version")
		require.NoError(t, err, service)
	}
}

func TestNoRoleReachesTheSchemaOfAnotherService(t *testing.T) {
	t.Parallel()
	all := testkit.Postgres(t, "")
	for _, service := range migrations.Services() {
		own := all.For(service)
		for _, other := range migrations.Services() {
			if other == service {
				continue
			}
			for role, url := range map[string]string{"app": own.AppURL, "owner": own.OwnerURL} {
				_, err := testkit.Open(t, url).Exec(context.Background(), "SELECT 1 FROM "+other+".goose_db_version")
				require.ErrorContains(t, err, "42501", "%s_%s reads %s", service, role, other)
			}
		}
		_, err := testkit.Open(t, own.AppURL).Exec(context.Background(), "CREATE TABLE "+service+".mine (id int)")
		require.ErrorContains(t, err, "42501", "%s_app creates tables", service)
		_, err = testkit.Open(t, own.AppURL).Exec(context.Background(), "DELETE FROM "+service+".goose_db_version")
		require.ErrorContains(t, err, "42501", "%s_app forgets its migrations", service)
	}
}

func TestClockStandsUntilItIsMoved(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	clock := testkit.NewClock(start)
	require.Equal(t, start, clock.Now())
	require.Equal(t, start.Add(time.Minute), clock.Advance(time.Minute))
	require.Equal(t, start.Add(time.Minute), clock.Now())
}

func TestRedisGivesEveryTestAPrefixOfItsOwn(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	one, two := testkit.Redis(t), testkit.Redis(t)
	require.NotEqual(t, one.Key("x"), two.Key("x"))
	require.NoError(t, one.Set(ctx, one.Key("x"), 1, time.Minute).Err())
	require.Zero(t, two.Exists(ctx, two.Key("x")).Val())
}

func TestRedisServerIsTheTestsOwn(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	server := testkit.RedisServer(t)
	client := testkit.OpenRedis(t, server.URL())
	require.NoError(t, client.FlushAll(ctx).Err())
	server.Stop()
	require.Error(t, client.Ready(ctx))
}

func TestNATSComesWithItsStreamsAndTheServerWithout(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	conn := testkit.NATS(t)
	for _, stream := range []string{natsx.AuditStream, natsx.LifecycleStream} {
		_, err := conn.JS().Stream(ctx, stream)
		require.NoError(t, err)
	}
	server := testkit.NATSServer(t)
	other := testkit.ConnectNATS(t, server.URL())
	require.Eventually(t, other.Connected, 20*time.Second, 5*time.Millisecond)
	_, err := other.JS().Stream(ctx, natsx.AuditStream)
	require.ErrorIs(t, err, jetstream.ErrStreamNotFound)
}

// recorder is a test that only notes whether it was skipped or failed.
type recorder struct {
	testing.TB
	skipped, failed bool
}

func (r *recorder) Helper()               {}
func (r *recorder) Skipf(string, ...any)  { r.skipped = true }
func (r *recorder) Fatalf(string, ...any) { r.failed = true }

func TestAMissingServerSkipsOnALaptopAndFailsInCI(t *testing.T) {
	for ci, want := range map[string]recorder{"": {skipped: true}, "true": {failed: true}} {
		t.Setenv("CI", ci)
		got := &recorder{TB: t}
		testkit.Unavailable(got, "TEST_DATABASE_URL", errors.New("not installed"))
		require.Equal(t, []bool{want.skipped, want.failed}, []bool{got.skipped, got.failed}, "CI=%q", ci)
	}
}

func TestDockerIsAskedOnlyWhereItAnswers(t *testing.T) {
	for host, want := range map[string]bool{
		"unix:///no/such.sock": false, "tcp://127.0.0.1:1": false, "://": false,
	} {
		t.Setenv("DOCKER_HOST", host)
		require.Equal(t, want, testkit.DockerAnswers(t.Context()), host)
	}
	socket := filepath.Join(t.TempDir(), "docker.sock")
	engine, err := net.Listen("unix", socket)
	require.NoError(t, err)
	defer func() { _ = engine.Close() }()
	t.Setenv("DOCKER_HOST", "unix://"+socket)
	require.True(t, testkit.DockerAnswers(t.Context()))
}

func TestAnEngineThatCannotRunTheImageIsNoObstacle(t *testing.T) {
	engine, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = engine.Close() }()
	t.Setenv("DOCKER_HOST", "tcp://"+engine.Addr().String())
	noImage, noProgram := errors.New("no such image"), errors.New("no such program")
	failing := func(context.Context) (string, error) { return "", noImage }

	url, err := testkit.ContainerOrProgram(t.Context(), failing, func() (string, error) { return "a program's", nil })
	require.NoError(t, err)
	require.Equal(t, "a program's", url)
	_, err = testkit.ContainerOrProgram(t.Context(), failing, func() (string, error) { return "", noProgram })
	require.ErrorIs(t, err, noImage)
	require.ErrorIs(t, err, noProgram)
	url, err = testkit.ContainerOrProgram(t.Context(), func(context.Context) (string, error) { return "a container's", nil }, nil)
	require.NoError(t, err)
	require.Equal(t, "a container's", url)
}
