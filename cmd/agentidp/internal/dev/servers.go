package dev

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sentryagent/agentidp/migrations"
	"github.com/sentryagent/agentidp/pkg/devservers"
	"github.com/sentryagent/agentidp/pkg/idle"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/services/audit"
)

const (
	databaseName = "agentidp"

	// restartPause keeps a server that cannot stay up from being started over and over.
	restartPause = time.Second
)

// servers are the Postgres, Redis and NATS of one run. One that ends by itself is started again on the
// same port, so that the services only see it gone for a moment.
type servers struct {
	layout   layout
	keys     keys
	dir      *dataDir
	progress *progress
	logs     *logs

	keeping sync.WaitGroup
	stop    context.CancelFunc

	mu    sync.Mutex
	stops map[string]func() // by server
}

// child is a server process that dev watches.
type child interface {
	Done() <-chan struct{}
	Stop()
}

// start brings up what the layout needs, side by side.
func (s *servers) start(ctx context.Context) error {
	s.stops = make(map[string]func())
	keeping, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.stop = stop
	var group errgroup.Group
	if s.layout.needsPostgres {
		group.Go(func() error { return s.startChild(ctx, keeping, "PostgreSQL", s.layout.postgresPort, s.openPostgres) })
	}
	if s.layout.needsRedis {
		group.Go(func() error { return s.startRedis(ctx, keeping) })
	}
	if s.layout.needsNATS {
		group.Go(s.startNATS)
	}
	return group.Wait()
}

func (s *servers) startChild(ctx, keeping context.Context, name string, port int, open func(context.Context) (child, error)) error {
	return s.progress.step(name, func() (string, error) {
		server, err := open(ctx)
		if err != nil {
			return "", fmt.Errorf("start %s: %w", name, err)
		}
		s.onStop(name, server.Stop)
		s.keeping.Go(func() { s.keep(keeping, name, server, open) })
		return fmt.Sprintf("port %d", port), nil
	})
}

func (s *servers) openPostgres(ctx context.Context) (child, error) {
	log, err := s.logs.open("postgres")
	if err != nil {
		return nil, err
	}
	wanted := s.dir.join("postgres")
	server, err := devservers.StartPostgres(ctx, devservers.PostgresConfig{
		Dir: wanted, Port: s.layout.postgresPort, Password: adminPassword(s.keys),
		Fsync: !s.dir.ephemeral, Log: log,
	})
	if err != nil {
		return nil, err
	}
	if server.Dir() != wanted {
		s.progress.note("PostgreSQL runs as another user, who cannot reach the data directory; its data is in %s", server.Dir())
		s.dir.alsoRemove(server.Dir())
	}
	return server, nil
}

func (s *servers) openRedis(ctx context.Context) (child, error) {
	log, err := s.logs.open("redis")
	if err != nil {
		return nil, err
	}
	server, err := devservers.StartRedis(ctx, devservers.RedisConfig{
		Dir: s.dir.join("redis"), Port: s.layout.redisPort, Password: s.keys.redis.Reveal(),
		Persist: !s.dir.ephemeral, Log: log,
	})
	if err != nil {
		return nil, err
	}
	return server, nil
}

// startRedis takes the embedded stand-in where no Redis is installed.
func (s *servers) startRedis(ctx, keeping context.Context) error {
	return s.progress.step("Redis", func() (string, error) {
		server, err := s.openRedis(ctx)
		if errors.Is(err, devservers.ErrNotFound) {
			embedded, err := devservers.StartMiniredis(s.layout.redisPort, s.keys.redis.Reveal())
			if err != nil {
				return "", fmt.Errorf("start the embedded Redis: %w", err)
			}
			s.onStop("Redis", embedded.Stop)
			return fmt.Sprintf("port %d, embedded, since redis-server is not installed", s.layout.redisPort), nil
		}
		if err != nil {
			return "", fmt.Errorf("start Redis: %w", err)
		}
		s.onStop("Redis", server.Stop)
		s.keeping.Go(func() { s.keep(keeping, "Redis", server, s.openRedis) })
		return fmt.Sprintf("port %d", s.layout.redisPort), nil
	})
}

func (s *servers) startNATS() error {
	return s.progress.step("NATS", func() (string, error) {
		server, err := devservers.StartNATS(devservers.NATSConfig{Dir: s.dir.join("nats"), Port: s.layout.natsPort})
		if err != nil {
			return "", fmt.Errorf("start NATS: %w", err)
		}
		s.onStop("NATS", server.Stop)
		return fmt.Sprintf("port %d, embedded, JetStream on disk", s.layout.natsPort), nil
	})
}

// keep starts a server again when it ends before it was told to.
func (s *servers) keep(ctx context.Context, name string, server child, open func(context.Context) (child, error)) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-server.Done():
		}
		for {
			if ctx.Err() != nil {
				return
			}
			s.progress.note("%s ended by itself; starting it again", name)
			again, err := open(ctx)
			if err == nil {
				server = again
				s.onStop(name, server.Stop)
				break
			}
			s.progress.note("%s does not start: %v", name, err)
			_ = idle.For(ctx, restartPause)
		}
	}
}

func (s *servers) onStop(name string, stop func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stops[name] = stop
}

// close stops what was started, in the order in which the servers lean on nobody any more.
func (s *servers) close() {
	if s.stop == nil {
		return
	}
	s.stop()
	s.keeping.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range []string{"NATS", "Redis", "PostgreSQL"} {
		if stop, started := s.stops[name]; started {
			stop()
		}
	}
}

// provision makes the database, its schemas and roles.
func (s *servers) provision(ctx context.Context) error {
	admin := func(database string) string {
		return fmt.Sprintf("postgres://%s:%s@%s:%d/%s?sslmode=disable",
			devservers.Superuser, adminPassword(s.keys), loopback, s.layout.postgresPort, database)
	}
	if err := devservers.CreateDatabase(ctx, admin("postgres"), databaseName); err != nil {
		return fmt.Errorf("create the database: %w", err)
	}
	if err := devservers.Provision(ctx, admin(databaseName), migrations.Services(), s.keys.rolePassword); err != nil {
		return fmt.Errorf("create the schemas and roles: %w", err)
	}
	return nil
}

// migrate brings all schemas up to date.
func (s *servers) migrate(ctx context.Context) error {
	return s.progress.step("schemas", func() (string, error) {
		if s.layout.needsPostgres {
			if err := s.provision(ctx); err != nil {
				return "", err
			}
		}
		var group errgroup.Group
		for _, name := range migrations.Services() {
			group.Go(func() error {
				log, err := s.logs.open(name)
				if err != nil {
					return err
				}
				logger := telemetry.NewLogger(log, name, "info")
				if err := migrations.Apply(ctx, name, s.layout.services[name].migrateURL.Reveal(), logger); err != nil {
					return fmt.Errorf("migrate %s: %w", name, err)
				}
				if name != "audit" {
					return nil
				}
				return audit.Adopt(ctx, s.layout.services[name].migrateURL, s.layout.logKey(s.keys), logger)
			})
		}
		return "migrated", group.Wait()
	})
}
