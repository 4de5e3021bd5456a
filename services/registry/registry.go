// Package registry is the face of the registry service, which answers who an agent is: it registers agents, changes
// them, and ends them. This package reads the settings, puts the parts together and runs them; it is the only one that
// knows all of them, and it holds no rule of its own.
package registry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/sentryagent/agentidp/pkg/guard"
	"github.com/sentryagent/agentidp/pkg/httpx"
	"github.com/sentryagent/agentidp/pkg/natsx"
	"github.com/sentryagent/agentidp/pkg/outbox"
	"github.com/sentryagent/agentidp/pkg/peer"
	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/pkg/redisx"
	"github.com/sentryagent/agentidp/pkg/revocation"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/pkg/tokenapi"
	"github.com/sentryagent/agentidp/services/registry/api"
	"github.com/sentryagent/agentidp/services/registry/internal/agent"
	"github.com/sentryagent/agentidp/services/registry/internal/httpapi"
	"github.com/sentryagent/agentidp/services/registry/internal/postgres"
)

const (
	serviceName = "registry"
	// forgetEvery is how often expired idempotency keys are deleted. They count no more once they are expired, so
	// this only bounds what is stored.
	forgetEvery = 10 * time.Minute
	// flushTimeout bounds how long the last spans may take at the end.
	flushTimeout = 2 * time.Second
)

// Service is one replica of the registry.
type Service struct {
	tel      *telemetry.Telemetry
	flush    func()
	db       *pgdb.DB
	redis    *redisx.Client
	nats     *natsx.Conn
	guard    *guard.Guard
	relay    *outbox.Relay
	registry *agent.Registry
	server   *httpx.Server
}

// New puts a service together. It connects to nothing: what the service depends on may come later. A Service that was
// made must be Run, which also lets go of what New holds.
func New(ctx context.Context, cfg Config) (*Service, error) {
	s := &Service{}
	if err := s.open(ctx, cfg); err != nil {
		s.close()
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
	var flush func(context.Context) error
	if s.tel, flush, err = telemetry.New(ctx, cfg.Telemetry, serviceName); err != nil {
		return fmt.Errorf("telemetry: %w", err)
	}
	s.flush = func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
		defer cancel()
		_ = flush(ctx) // the last spans are lost where the collector is away
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
	tokens := tokenapi.NewClient(peer.New(peer.Config{
		BaseURL: cfg.TokenURL, Token: cfg.HTTP.InternalAPIToken, Name: "token", Telemetry: s.tel,
	}))
	if s.guard, err = guard.NewRemote(ctx, cfg.Guard, tokens, s.redis, s.tel); err != nil {
		return fmt.Errorf("guard: %w", err)
	}
	return s.serve(cfg) //nolint:contextcheck // the server makes a context for each request
}

// serve makes the domain and puts its routes on the server.
func (s *Service) serve(cfg Config) (err error) {
	store := postgres.NewStore(s.db)
	s.registry = agent.New(agent.Options{
		Store:      store,
		Cutoffs:    revocation.NewStore(s.redis),
		MaxAgents:  cfg.MaxAgents,
		Clock:      time.Now,
		NewID:      newID,
		Log:        s.tel.Log,
		Registered: countRegistrations(s.tel.Metrics.Registry),
	})
	s.relay = outbox.New(postgres.Schema).NewRelay(outbox.RelayConfig{
		DB: s.db, Conn: s.nats, Telemetry: s.tel, Clock: time.Now,
	})
	s.server, err = httpx.NewServer(cfg.HTTP, httpx.Options{
		Service:   serviceName,
		Telemetry: s.tel,
		OpenAPI:   api.Spec,
		Ready: func(ctx context.Context) error {
			return errors.Join(store.Ready(ctx), s.guard.Ready(ctx))
		},
	})
	if err != nil {
		return fmt.Errorf("http: %w", err)
	}
	httpapi.New(s.registry, s.guard).Routes(s.server.Public(), s.server.Internal())
	return nil
}

// Listen opens both listeners, so that Addresses are known before Run; Run does it where nobody did.
func (s *Service) Listen() error { return s.server.Listen() }

// Addresses are those of the public and the internal listener; empty before Listen.
func (s *Service) Addresses() (public, internal string) {
	return s.server.PublicAddr(), s.server.InternalAddr()
}

// Run serves until ctx ends, then finishes the requests that are under way and returns nil. The relay goes on until the
// last of them has been answered.
func (s *Service) Run(ctx context.Context) error {
	defer s.close()
	serve, stopServing := context.WithCancel(ctx)
	defer stopServing()
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()

	var group errgroup.Group
	group.Go(func() error {
		defer stopWork()
		return s.server.Run(serve)
	})
	for _, worker := range []func(context.Context) error{s.relay.Run, s.guard.Run, s.forgetKeys} {
		group.Go(func() error {
			defer stopServing()
			return worker(work)
		})
	}
	return group.Wait()
}

// forgetKeys deletes expired idempotency keys from time to time, in every replica: they do not stand in each other's way.
func (s *Service) forgetKeys(ctx context.Context) error {
	ticker := time.NewTicker(forgetEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		forgotten, err := s.registry.ForgetExpiredKeys(ctx)
		if err != nil && ctx.Err() == nil {
			s.tel.Log.WarnContext(ctx, "expired idempotency keys not deleted", "error", err)
			continue
		}
		s.tel.Log.DebugContext(ctx, "expired idempotency keys deleted", "count", forgotten)
	}
}

func (s *Service) close() {
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
		s.flush()
	}
}

// newID makes time-ordered ids (UUIDv7): neighbours in time are neighbours in the index.
func newID() uuid.UUID { return uuid.Must(uuid.NewV7()) }

// countRegistrations registers the metric of registrations, with every outcome there is at zero.
func countRegistrations(metrics prometheus.Registerer) func(outcome string) {
	counter := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "agentidp_agents_registered_total",
		Help: "Registrations of agents, by outcome.",
	}, []string{"outcome"})
	for _, outcome := range agent.Outcomes() {
		counter.WithLabelValues(outcome)
	}
	metrics.MustRegister(counter)
	return func(outcome string) { counter.WithLabelValues(outcome).Inc() }
}
