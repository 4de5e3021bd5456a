package devservers_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/devservers"
)

func startRedis(ctx context.Context, t *testing.T, cfg devservers.RedisConfig) *devservers.Redis {
	t.Helper()
	server, err := devservers.StartRedis(ctx, cfg)
	if errors.Is(err, devservers.ErrNotFound) && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	require.NoError(t, err)
	t.Cleanup(server.Stop)
	return server
}

func redisClient(t *testing.T, url string) *redis.Client {
	t.Helper()
	opts, err := redis.ParseURL(url)
	require.NoError(t, err)
	client := redis.NewClient(opts)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func TestRedisKeepsWhatItIsToldToKeep(t *testing.T) {
	t.Parallel()
	for name, persist := range map[string]bool{"with an append-only file": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := setup(t)
			server := startRedis(ctx, t, devservers.RedisConfig{Dir: filepath.Join(t.TempDir(), "a b"), Password: "secret", Persist: persist})
			client := redisClient(t, server.URL())
			require.NoError(t, client.Set(ctx, "word", "kept", 0).Err())
			require.NoError(t, server.Restart(ctx))
			require.Eventually(t, func() bool { return client.Ping(ctx).Err() == nil }, patient, 10*time.Millisecond)
			word, _ := client.Get(ctx, "word").Result()
			require.Equal(t, persist, word == "kept")
			server.Stop()
			<-server.Done()
		})
	}
}

func TestRedisLetsNobodyInWithoutThePassword(t *testing.T) {
	t.Parallel()
	ctx := setup(t)
	server := startRedis(ctx, t, devservers.RedisConfig{Dir: t.TempDir(), Password: "right"})
	opts, err := redis.ParseURL(server.URL())
	require.NoError(t, err)
	opts.Password = "wrong"
	client := redis.NewClient(opts)
	defer func() { _ = client.Close() }()
	require.ErrorContains(t, client.Ping(ctx).Err(), "WRONGPASS")
}

func TestRedisSaysWhyItCannotStart(t *testing.T) {
	t.Parallel()
	ctx := setup(t)
	server := startRedis(ctx, t, devservers.RedisConfig{Dir: t.TempDir()})
	_, err := devservers.StartRedis(ctx, devservers.RedisConfig{Dir: t.TempDir(), Port: portOf(t, server.URL())})
	require.Error(t, err, "the port is taken")
	_, err = devservers.StartRedis(ctx, devservers.RedisConfig{Dir: t.TempDir(), Password: "quote\""})
	require.ErrorContains(t, err, "quotes")
}

func TestMiniredisLetsKeysExpireAndAsksForThePassword(t *testing.T) {
	t.Parallel()
	ctx := setup(t)
	server, err := devservers.StartMiniredis(0, "secret")
	require.NoError(t, err)
	defer server.Stop()
	client := redisClient(t, server.URL())
	require.NoError(t, client.Set(ctx, "word", "fleeting", 300*time.Millisecond).Err())
	require.Eventually(t, func() bool { return errors.Is(client.Get(ctx, "word").Err(), redis.Nil) }, patient, 10*time.Millisecond)

	_, err = devservers.StartMiniredis(portOf(t, server.URL()), "")
	require.Error(t, err, "the port is taken")
	server.Stop()
	require.Error(t, client.Ping(ctx).Err())
}

func TestNATSKeepsItsStreamsAndItsPort(t *testing.T) {
	t.Parallel()
	ctx := setup(t)
	server, err := devservers.StartNATS(devservers.NATSConfig{Dir: t.TempDir(), Password: "secret"})
	require.NoError(t, err)
	defer server.Stop()
	url := server.URL()
	nc, err := nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond))
	require.NoError(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	_, err = js.CreateStream(ctx, jetstream.StreamConfig{Name: "KEPT", Subjects: []string{"kept"}})
	require.NoError(t, err)
	_, err = js.Publish(ctx, "kept", nil)
	require.NoError(t, err)

	require.NoError(t, server.Restart())
	require.Equal(t, url, server.URL())
	// The client may not have noticed yet that its connection is gone: what it asks then is lost, and asked again.
	require.Eventually(t, func() bool {
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		stream, err := js.Stream(short, "KEPT")
		return err == nil && stream.CachedInfo().State.Msgs == 1
	}, patient, 10*time.Millisecond)

	_, err = nats.Connect("nats://127.0.0.1:" + nc.ConnectedAddr()[len("127.0.0.1:"):])
	require.ErrorIs(t, err, nats.ErrAuthorization)
	server.Stop()
	server.Stop() // harmless
	_, err = devservers.StartNATS(devservers.NATSConfig{})
	require.ErrorContains(t, err, "directory")
}

func TestProvisionGivesEveryServiceItsSchemaAndNothingElse(t *testing.T) {
	t.Parallel()
	ctx := setup(t)
	server := startPostgres(ctx, t, devservers.PostgresConfig{Dir: privateDir(t), Password: "admin"})
	const database = "agentidp"
	for range 2 { // again and again
		require.NoError(t, devservers.CreateDatabase(ctx, server.AdminURL(), database))
		admin := server.URL(devservers.Superuser, "", database)
		require.NoError(t, devservers.Provision(ctx, admin, []string{"red", "blue"}, func(role string) string { return role + "'s \\ password" }))
	}
	as := func(role string) string { return server.URL(role, role+"'s \\ password", database) }
	exec1(ctx, t, as("red_owner"), "CREATE TABLE red.things (id int)")
	exec1(ctx, t, as("red_owner"), "GRANT SELECT ON red.things TO red_app")
	exec1(ctx, t, as("red_app"), "SELECT * FROM red.things")
	for role, statements := range map[string][]string{
		"red_app":    {"INSERT INTO red.things VALUES (1)", "CREATE TABLE red.mine ()", "CREATE TABLE public.mine ()", "CREATE SCHEMA mine"},
		"red_owner":  {"CREATE TABLE public.mine ()", "CREATE TABLE blue.mine ()"},
		"blue_app":   {"SELECT * FROM red.things"},
		"blue_owner": {"SELECT * FROM red.things", "DROP SCHEMA red"},
	} {
		conn, err := pgx.Connect(ctx, as(role))
		require.NoError(t, err)
		for _, sql := range statements {
			_, err := conn.Exec(ctx, sql)
			require.Error(t, err, "%s may: %s", role, sql)
		}
		require.NoError(t, conn.Close(ctx))
	}
	_, err := pgx.Connect(ctx, server.URL("red_app", "guess", database))
	require.Error(t, err)
	require.ErrorContains(t, devservers.Provision(ctx, "not a url", nil, nil), "not valid")
}

func TestMissingNamesNothingWhereServersRun(t *testing.T) {
	t.Parallel()
	ctx := setup(t)
	startPostgres(ctx, t, devservers.PostgresConfig{Dir: privateDir(t), Password: "x"}).Stop()
	startRedis(ctx, t, devservers.RedisConfig{Dir: t.TempDir()}).Stop()
	require.Empty(t, devservers.Missing())
}
