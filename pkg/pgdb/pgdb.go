// Package pgdb is the way to Postgres: one pool per service, transactions whose rollback survives a
// cancelled context, and the mapping of the driver's failures to what a caller may know. It holds no
// SQL of any service, and it must not decide what a violated constraint means: it only names it.
package pgdb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	pgxuuid "github.com/vgarvardt/pgx-google-uuid/v5"

	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/telemetry"
)

const (
	connectTimeout  = 3 * time.Second
	rollbackTimeout = 3 * time.Second
	// The driver gives the server 15 s for the end of each statement that was given up; a service that stops has 30 s for all.
	closeTimeout = 2 * time.Second
)

// Config says where the database of a service is, and as whom the service comes.
type Config struct {
	URL        config.Secret `env:"DATABASE_URL" required:"true" desc:"Postgres URL of the service's own role (<service>_app)"`
	MigrateURL config.Secret `env:"MIGRATE_DATABASE_URL" desc:"Postgres URL of the role that owns the schema (<service>_owner); only migrate uses it"`
	MaxConns   int           `env:"DATABASE_MAX_CONNS" default:"10" desc:"most connections one replica opens to Postgres"`
}

// Validate refuses a pool that could never lend a connection, and URLs that are none; an error never
// carries the URL. That one is missing is not said here, since not every program needs both.
func (c Config) Validate() error {
	var failures []error
	if c.MaxConns < 1 {
		failures = append(failures, errors.New("DATABASE_MAX_CONNS must be at least 1"))
	}
	for _, setting := range []struct {
		name string
		url  config.Secret
	}{{"DATABASE_URL", c.URL}, {"MIGRATE_DATABASE_URL", c.MigrateURL}} {
		if _, err := pgxpool.ParseConfig(setting.url.Reveal()); err != nil && setting.url != "" {
			failures = append(failures, errors.New(setting.name+" is not a valid Postgres URL"))
		}
	}
	return errors.Join(failures...)
}

// Querier is what a pool, a connection and a transaction have in common.
type Querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// DB is the pool of one service. It is safe for concurrent use.
type DB struct{ *pgxpool.Pool }

var _ Querier = (*DB)(nil)

// Open makes the pool without connecting: the server may come later. It holds only connections that
// take writes, unless the URL asks for others. It fails only for a URL that cannot be parsed; the
// error never carries the URL, which holds a password.
func Open(ctx context.Context, cfg Config, tel *telemetry.Telemetry) (*DB, error) {
	parsed, err := pgxpool.ParseConfig(cfg.URL.Reveal())
	if err != nil {
		return nil, errors.New("DATABASE_URL is not a valid Postgres URL")
	}
	if cfg.MaxConns > 0 {
		parsed.MaxConns = int32(min(cfg.MaxConns, 10_000)) // #nosec G115 -- bounded on this line
	}
	parsed.ConnConfig.ConnectTimeout = connectTimeout
	// While a failover is under way the address may lead to a server that takes no writes. A connection
	// to it would stay in the pool, and be good enough for whatever only reads.
	if parsed.ConnConfig.ValidateConnect == nil { // the URL names no target_session_attrs
		parsed.ConnConfig.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	keeps := parsed.ConnConfig.OnPgError
	parsed.ConnConfig.OnPgError = func(conn *pgconn.PgConn, err *pgconn.PgError) bool {
		return err.Code != readOnlyState && keeps(conn, err)
	}
	parsed.MaxConnIdleTime = 5 * time.Minute
	parsed.HealthCheckPeriod = 15 * time.Second
	// Without it a UUID goes through its text form, both ways.
	parsed.AfterConnect = func(_ context.Context, conn *pgx.Conn) error {
		pgxuuid.Register(conn.TypeMap())
		return nil
	}
	if tel != nil {
		parsed.ConnConfig.Tracer = newQueryTimer(tel)
	}
	pool, err := pgxpool.NewWithConfig(ctx, parsed)
	if err != nil {
		return nil, fmt.Errorf("make the connection pool: %w", err)
	}
	return &DB{Pool: pool}, nil
}

// Close lets go of the connections, and leaves those to themselves that a server which hangs has not let go of in two seconds.
func (db *DB) Close() {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		db.Pool.Close()
	}()
	select {
	case <-closed:
	case <-time.After(closeTimeout):
	}
}

// WithTx runs fn in one transaction: committed when fn returns nil, rolled back when it returns an
// error or panics, even after ctx has ended. Nothing that waits for another service (HTTP, Redis,
// NATS) belongs into fn. The error of fn comes back as it is.
func (db *DB) WithTx(ctx context.Context, fn func(tx pgx.Tx) error) error {
	tx, err := db.Begin(ctx)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer func() {
		// A rollback after a commit does nothing; one under the caller's ended context would
		// throw the connection away instead of giving it back.
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
		defer cancel()
		_ = tx.Rollback(cleanup)
	}()
	if err := fn(tx); err != nil {
		return err
	}
	if err := tx.Commit(ctx); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// Ready answers nil when the database takes queries, else a Fault. Which schema is there it does not ask.
func (db *DB) Ready(ctx context.Context) error {
	var one int
	return Fault(db.QueryRow(ctx, sqlReady).Scan(&one))
}

const sqlReady = "-- name: ready\nSELECT 1"
