package devservers

import (
	"context"
	"errors"
	"io"
)

var errStub = errors.New("not built yet")

// PostgresConfig says how a Postgres server runs. Port 0 takes a free one.
type PostgresConfig struct {
	Dir      string
	Port     int
	Password string // of the role Superuser
	Fsync    bool
	Log      io.Writer
}

// Postgres is a running server.
type Postgres struct{}

// StartPostgres starts the server on its data directory, which is made if it is not there.
func StartPostgres(_ context.Context, _ PostgresConfig) (*Postgres, error) { return nil, errStub }

// URL to connect to a database as a user.
func (p *Postgres) URL(_, _, _ string) string { return "" }

// AdminURL is the URL of the superuser and the database "postgres".
func (p *Postgres) AdminURL() string { return "" }

// Done is closed when the server has ended.
func (p *Postgres) Done() <-chan struct{} { return nil }

// Stop ends the server (a fast shutdown) and waits for it.
func (p *Postgres) Stop() {}

// RedisConfig says how a Redis server runs. Port 0 takes a free one.
type RedisConfig struct {
	Dir      string
	Port     int
	Password string
	Persist  bool
	Log      io.Writer
}

// Redis is a running server.
type Redis struct{}

// StartRedis starts the server, or fails with ErrNotFound when the program is not installed.
func StartRedis(_ context.Context, _ RedisConfig) (*Redis, error) { return nil, errStub }

// URL to connect.
func (r *Redis) URL() string { return "" }

// Done is closed when the server has ended.
func (r *Redis) Done() <-chan struct{} { return nil }

// Stop ends the server and waits for it.
func (r *Redis) Stop() {}

// Restart stops the server if it runs and starts it on the same port and directory.
func (r *Redis) Restart(_ context.Context) error { return errStub }

// Miniredis is an embedded stand-in for a Redis server, for machines that have none.
type Miniredis struct{}

// StartMiniredis starts it on a port of 127.0.0.1; 0 takes a free one.
func StartMiniredis(_ int, _ string) (*Miniredis, error) { return nil, errStub }

// URL to connect.
func (m *Miniredis) URL() string { return "" }

// Stop ends it.
func (m *Miniredis) Stop() {}

// NATSConfig says how the embedded NATS server runs. Port 0 takes a free one.
type NATSConfig struct {
	Dir  string
	Port int
}

// NATS is an embedded server with JetStream on disk.
type NATS struct{}

// StartNATS starts the server on 127.0.0.1.
func StartNATS(_ NATSConfig) (*NATS, error) { return nil, errStub }

// URL to connect.
func (n *NATS) URL() string { return "" }

// Stop ends the server and waits for it.
func (n *NATS) Stop() {}

// Restart stops the server if it runs and starts it on the same port and directory.
func (n *NATS) Restart() error { return errStub }

// Missing lists the Debian packages that the servers need and that are not installed.
func Missing() []string { return nil }

// Install installs Debian packages, as root on Debian or Ubuntu; elsewhere it says what to install.
func Install(_ context.Context, _ io.Writer, _ []string) error { return errStub }

// CreateDatabase makes a database unless it exists.
func CreateDatabase(_ context.Context, _, _ string) error { return errStub }

// Provision makes, in the database of adminURL, a schema per service with its two roles
// <service>_owner and <service>_app. It may run again at any time.
func Provision(_ context.Context, _ string, _ []string, _ func(role string) string) error {
	return errStub
}
