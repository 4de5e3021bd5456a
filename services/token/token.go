// Package token is the face of the token service, which proves who an agent is: it authenticates clients, issues,
// introspects and revokes access tokens, and publishes the keys that verify them. This package reads the settings,
// puts the parts together and runs them; it is the only one that knows all of them, and it holds no rule of its own.
package token

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sentryagent/agentidp/pkg/guard"
	"github.com/sentryagent/agentidp/pkg/httpx"
	"github.com/sentryagent/agentidp/pkg/lifecycle"
	"github.com/sentryagent/agentidp/pkg/natsx"
	"github.com/sentryagent/agentidp/pkg/outbox"
	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/pkg/redisx"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/services/token/api"
	"github.com/sentryagent/agentidp/services/token/internal/httpapi"
	"github.com/sentryagent/agentidp/services/token/internal/hydration"
	"github.com/sentryagent/agentidp/services/token/internal/invalidation"
	"github.com/sentryagent/agentidp/services/token/internal/journal"
	"github.com/sentryagent/agentidp/services/token/internal/keys"
	"github.com/sentryagent/agentidp/services/token/internal/postgres"
	"github.com/sentryagent/agentidp/services/token/internal/quota"
	"github.com/sentryagent/agentidp/services/token/internal/usage"
)

const (
	serviceName = "token"
	// cutoffsDurable is the consumer that all replicas share.
	cutoffsDurable = "token-cutoffs"
	// flushTimeout bounds how long the last spans may take at the end.
	flushTimeout = 2 * time.Second
)

// Service is one replica of the token service.
type Service struct {
	tel    *telemetry.Telemetry
	flush  func(context.Context) error
	db     *pgdb.DB
	redis  *redisx.Client
	nats   *natsx.Conn
	server *httpx.Server

	guard    *guard.Guard
	ring     *keys.Ring
	epochs   *invalidation.Epochs
	journal  *journal.Journal
	budget   *quota.Budget
	uses     *usage.Reporter
	hydrator *hydration.Hydrator
	relay    *outbox.Relay

	// migrated is set once the schema has answered.
	migrated atomic.Bool
}

// New puts a service together. It connects to nothing: what the service depends on may come later. A Service that was
// made must be Run, which also lets go of what New holds.
func New(ctx context.Context, cfg Config) (*Service, error) {
	s := &Service{}
	if err := s.open(ctx, cfg); err != nil {
		s.close(ctx)
		return nil, err
	}
	return s, nil
}

// Serve runs a service that takes its settings from the environment.
func Serve(ctx context.Context) error {
	cfg, err := LoadConfig()
	if err != nil {
		return err
	}
	s, err := New(ctx, cfg)
	if err != nil {
		return err
	}
	return s.Run(ctx)
}

func (s *Service) open(ctx context.Context, cfg Config) (err error) {
	if s.tel, s.flush, err = telemetry.New(ctx, cfg.Telemetry, serviceName); err != nil {
		return fmt.Errorf("telemetry: %w", err)
	}
	if s.db, err = pgdb.Open(ctx, cfg.Database, s.tel); err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	if s.redis, err = redisx.Open(cfg.Redis, s.tel); err != nil {
		return fmt.Errorf("redis: %w", err)
	}
	if s.nats, err = natsx.Connect(cfg.NATS, serviceName, s.tel); err != nil {
		return fmt.Errorf("nats: %w", err)
	}
	s.server, err = httpx.NewServer(cfg.HTTP, httpx.Options{ //nolint:contextcheck // every request brings its own context
		Service: serviceName, Telemetry: s.tel, OpenAPI: api.Spec, Ready: s.ready,
	})
	if err != nil {
		return fmt.Errorf("http: %w", err)
	}
	routes, err := s.wire(ctx, cfg)
	if err != nil {
		return err
	}
	return httpapi.Register(s.server, routes)
}

// ready is nil once tokens can be issued and verified. Redis and NATS are not asked: the service works without them.
// Postgres is asked until the schema has answered once: without it tokens for known agents, the JWKS and most checks go
// on, and all replicas would leave their balancer at the same time.
func (s *Service) ready(ctx context.Context) error {
	var schemaErr error
	if !s.migrated.Load() {
		if schemaErr = postgres.Ready(ctx, s.db); schemaErr == nil {
			s.migrated.Store(true)
		}
	}
	_, keyErr := s.ring.Signer()
	return errors.Join(schemaErr, keyErr, s.guard.Ready(ctx))
}

// Listen opens both listeners, so that Addresses are known before Run; Run does it where nobody did.
func (s *Service) Listen() error { return s.server.Listen() }

// Addresses are those of the public and the internal listener; empty before Listen.
func (s *Service) Addresses() (public, internal string) {
	return s.server.PublicAddr(), s.server.InternalAddr()
}

// Run serves until ctx ends, then finishes the requests that are under way and returns nil. What works behind the
// requests goes on until the last of them has been answered, and writes what it still holds then.
func (s *Service) Run(ctx context.Context) error {
	defer s.close(ctx)
	serve, stopServing := context.WithCancel(ctx)
	defer stopServing()
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()

	var group errgroup.Group
	group.Go(func() error {
		defer stopWork()
		return s.server.Run(serve)
	})
	for _, worker := range []func(context.Context) error{
		s.ring.Run, s.guard.Run, s.watch, s.consume, s.hydrator.Run, s.hydrator.RetryAnnouncements,
		s.journal.Run, s.relay.Run, s.budget.Run, s.uses.Run,
	} {
		group.Go(func() error {
			defer stopServing()
			return worker(work)
		})
	}
	return group.Wait()
}

// watch makes every replica forget what it remembers of agents that change.
func (s *Service) watch(ctx context.Context) error {
	return lifecycle.Watch(ctx, s.nats, s.tel, lifecycle.Watcher{
		Agent:      func(change lifecycle.AgentChanged) { s.epochs.Changed(change.AgentID) },
		Credential: func(change lifecycle.CredentialChanged) { s.epochs.Changed(change.AgentID) },
		Gap:        s.epochs.Missed,
	})
}

// consume keeps, in one of the replicas, what changes of agents mean for their tokens.
func (s *Service) consume(ctx context.Context) error {
	return lifecycle.ConsumeAgents(ctx, s.nats, s.tel, cutoffsDurable, s.hydrator.Agent)
}

func (s *Service) close(ctx context.Context) {
	if s.nats != nil {
		s.nats.Close()
	}
	if s.redis != nil {
		_ = s.redis.Close()
	}
	if s.db != nil {
		s.db.Close()
	}
	if s.flush != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
		defer cancel()
		_ = s.flush(ctx)
	}
}
