// Package testkit gives tests real servers: a fresh database each, Redis under a key prefix of its
// own, NATS of its own. Servers come from TEST_DATABASE_URL and TEST_REDIS_URL, else from Docker,
// else from programs of this machine; without any of them a test is skipped, or fails where CI is
// set. Only tests import it, and it must never touch data that it did not make.
package testkit

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/devservers"
	"github.com/sentryagent/agentidp/pkg/natsx"
	"github.com/sentryagent/agentidp/pkg/redisx"
	"github.com/sentryagent/agentidp/pkg/telemetry"
)

// Redis is a client with a key prefix of its own. The server is shared: no FLUSHALL here.
func Redis(tb testing.TB) *redisx.Client {
	tb.Helper()
	return OpenRedis(tb, redisServer.get(tb))
}

// OpenRedis makes a client with a key prefix of its own that is closed at the end of the test.
func OpenRedis(tb testing.TB, redisURL string) *redisx.Client {
	tb.Helper()
	client, err := redisx.Open(redisx.Config{
		URL: config.Secret(redisURL), KeyPrefix: "test:" + randomHex(8) + ":",
	}, telemetry.Discard("test"))
	if err != nil {
		tb.Fatalf("open the test redis: %v", err)
	}
	tb.Cleanup(func() { _ = client.Close() })
	return client
}

// RedisServer is a server of the test's own, which it may stop, restart and empty. It needs the
// program on this machine.
func RedisServer(tb testing.TB) *devservers.Redis {
	tb.Helper()
	return ownRedis(tb, devservers.RedisConfig{Dir: tb.TempDir()})
}

// PersistentRedisServer is a RedisServer that has its data again after a restart.
func PersistentRedisServer(tb testing.TB) *devservers.Redis {
	tb.Helper()
	return ownRedis(tb, devservers.RedisConfig{Dir: tb.TempDir(), Persist: true})
}

// Freeze freezes the server until thaw is called, or the test ends.
func Freeze(tb testing.TB, server interface {
	Freeze() error
	Thaw() error
}) (thaw func()) {
	tb.Helper()
	if err := server.Freeze(); err != nil {
		tb.Fatalf("freeze redis: %v", err)
	}
	thaw = func() {
		if err := server.Thaw(); err != nil {
			tb.Errorf("thaw redis: %v", err)
		}
	}
	tb.Cleanup(func() { _ = server.Thaw() })
	return thaw
}

func ownRedis(tb testing.TB, cfg devservers.RedisConfig) *devservers.Redis {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	server, err := devservers.StartRedis(ctx, cfg)
	if err != nil {
		unavailable(tb, "PATH", err)
	}
	tb.Cleanup(server.Stop)
	return server
}

// NATS is a connection to a server of the test's own, with both streams declared.
func NATS(tb testing.TB) *natsx.Conn {
	tb.Helper()
	conn := ConnectNATS(tb, NATSServer(tb).URL())
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for _, declare := range []func(context.Context) error{conn.DeclareAudit, conn.DeclareLifecycle} {
		if err := declare(ctx); err != nil {
			tb.Fatalf("declare the test streams: %v", err)
		}
	}
	return conn
}

// NATSServer is a server of the test's own, which it may stop and restart; it has no streams yet.
func NATSServer(tb testing.TB) *devservers.NATS {
	tb.Helper()
	server, err := devservers.StartNATS(devservers.NATSConfig{Dir: filepath.Join(tb.TempDir(), "nats")})
	if err != nil {
		tb.Fatalf("start the test nats: %v", err)
	}
	tb.Cleanup(server.Stop)
	return server
}

// ConnectNATS makes a connection that is closed at the end of the test.
func ConnectNATS(tb testing.TB, natsURL string) *natsx.Conn {
	tb.Helper()
	conn, err := natsx.Connect(natsx.Config{URL: config.Secret(natsURL), Replicas: 1}, "test", telemetry.Discard("test"))
	if err != nil {
		tb.Fatalf("connect to the test nats: %v", err)
	}
	tb.Cleanup(conn.Close)
	return conn
}
