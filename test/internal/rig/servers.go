package rig

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/redis/go-redis/v9"

	"github.com/sentryagent/agentidp/pkg/devservers"
)

// startPostgres starts it with an empty database. It writes to disk as in production.
func (r *Rig) startPostgres(ctx context.Context, cfg Config) error {
	r.buffers = cfg.PostgresBuffers
	if err := r.openPostgres(ctx, 0); err != nil {
		return err
	}
	if err := devservers.CreateDatabase(ctx, r.postgres.AdminURL(), databaseName); err != nil {
		return err
	}
	if err := r.connectPostgres(ctx); err != nil {
		return err
	}
	if cfg.CountStatements {
		if err := r.countStatements(ctx); err != nil {
			return err
		}
	}
	url := r.postgres.URL(devservers.Superuser, "", databaseName)
	return devservers.Provision(ctx, url, Services(), func(string) string { return r.password })
}

// openPostgres starts the server on the data there is, on a port of its choice for 0.
func (r *Rig) openPostgres(ctx context.Context, port int) (err error) {
	cfg := devservers.PostgresConfig{
		Dir: filepath.Join(r.dir, "postgres"), Port: port, Password: r.password, Fsync: true, SharedBuffers: r.buffers,
	}
	r.postgres, err = devservers.StartPostgres(ctx, cfg)
	return err
}

func (r *Rig) connectPostgres(ctx context.Context) (err error) {
	if r.db, err = pgxpool.New(ctx, r.postgres.URL(devservers.Superuser, "", databaseName)); err != nil {
		return fmt.Errorf("connect to postgres: %w", err)
	}
	return nil
}

// countStatements restarts the server: what counts the statements has to be loaded when it starts.
func (r *Rig) countStatements(ctx context.Context) error {
	if _, err := r.db.Exec(ctx, "ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'"); err != nil {
		return fmt.Errorf("have statements counted: %w", err)
	}
	r.db.Close()
	r.postgres.Stop()
	if err := r.openPostgres(ctx, 0); err != nil {
		return err
	}
	if err := r.connectPostgres(ctx); err != nil {
		return err
	}
	if _, err := r.db.Exec(ctx, "CREATE EXTENSION pg_stat_statements"); err != nil {
		return fmt.Errorf("have statements counted (the package postgresql-contrib is needed): %w", err)
	}
	return nil
}

func (r *Rig) startRedis(ctx context.Context) error {
	server, err := devservers.StartRedis(ctx, devservers.RedisConfig{Dir: filepath.Join(r.dir, "redis"), Persist: true})
	if err != nil {
		return err
	}
	r.redis = server
	options, err := redis.ParseURL(server.URL())
	if err != nil {
		return fmt.Errorf("url of redis: %w", err)
	}
	r.cache = redis.NewClient(options)
	return nil
}

// startNATS starts the NATS server with JetStream on disk.
func (r *Rig) startNATS(ctx context.Context) error {
	port, err := r.freePort(ctx)
	if err != nil {
		return err
	}
	r.natsURL = "nats://" + net.JoinHostPort(loopback, port)
	if err := r.openNATS(port); err != nil {
		return err
	}
	err = r.until(ctx, r.nats, func() (err error) {
		r.broker, err = nats.Connect(r.natsURL, nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond))
		return err
	})
	if err != nil {
		return err
	}
	if r.stream, err = jetstream.New(r.broker); err != nil {
		return fmt.Errorf("jetstream: %w", err)
	}
	return nil
}

// openNATS starts the server on the data there is.
func (r *Rig) openNATS(port string) (err error) {
	cmd := exec.Command(filepath.Join(r.bin, "nats-server"), //nolint:gosec,noctx // built by us; outlives ctx
		"-a", loopback, "-p", port, "-js", "-sd", filepath.Join(r.dir, "nats"))
	r.nats, err = startChild("nats-server", filepath.Join(r.dir, "nats.log"), cmd)
	return err
}
