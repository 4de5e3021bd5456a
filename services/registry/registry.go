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

	"github.com/sentryagent/agentidp/pkg/guard"
	"github.com/sentryagent/agentidp/pkg/httpx"
	"github.com/sentryagent/agentidp/pkg/outbox"
	"github.com/sentryagent/agentidp/pkg/replica"
	"github.com/sentryagent/agentidp/pkg/revocation"
	"github.com/sentryagent/agentidp/pkg/sweep"
	"github.com/sentryagent/agentidp/pkg/tokenapi"
	"github.com/sentryagent/agentidp/services/registry/api"
	"github.com/sentryagent/agentidp/services/registry/internal/agent"
	"github.com/sentryagent/agentidp/services/registry/internal/httpapi"
	"github.com/sentryagent/agentidp/services/registry/internal/postgres"
)

const serviceName = "registry"

// Service is one replica of the registry.
type Service struct {
	replica *replica.Replica
	guard   *guard.Guard
	relay   *outbox.Relay
	sweeper *sweep.Sweeper
	fleet   *fleet
	server  *httpx.Server
}

// New puts a service together. It connects to nothing: what the service depends on may come later. A Service that was
// made must be Run, which also lets go of what New holds.
func New(ctx context.Context, cfg Config) (*Service, error) {
	held, err := replica.Open(ctx, serviceName, cfg.Config)
	if err != nil {
		return nil, err
	}
	s := &Service{replica: held}
	if err := s.wire(ctx, cfg); err != nil {
		held.Close()
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

func (s *Service) wire(ctx context.Context, cfg Config) (err error) {
	r := s.replica
	tokens := tokenapi.NewClient(r.Peer("token", cfg.TokenURL))
	if s.guard, err = guard.NewRemote(ctx, cfg.Guard, tokens, r.Redis, r.Telemetry); err != nil {
		return fmt.Errorf("guard: %w", err)
	}
	store := postgres.NewStore(r.DB)
	registry := agent.New(agent.Options{
		Store:      store,
		Cutoffs:    revocation.NewStore(r.Redis),
		MaxAgents:  cfg.MaxAgents,
		Clock:      time.Now,
		NewID:      newID,
		Log:        r.Telemetry.Log,
		Registered: countRegistrations(r.Telemetry.Metrics.Registry),
	})
	s.sweeper = &sweep.Sweeper{Purge: store.PurgeIdempotencyKeys, What: "idempotency keys", Clock: time.Now, Log: r.Telemetry.Log}
	s.fleet = newFleet(r.Telemetry.Metrics.Registry, cfg.MaxAgents, store.Living)
	s.relay = outbox.New(postgres.Schema).NewRelay(outbox.RelayConfig{
		DB: r.DB, Conn: r.NATS, Telemetry: r.Telemetry, Clock: time.Now,
	})
	s.server, err = r.Server(api.Spec, func(ctx context.Context) error { //nolint:contextcheck // every request brings its own context
		return errors.Join(r.DB.Ready(ctx), s.guard.Ready(ctx))
	})
	if err != nil {
		return err
	}
	httpapi.New(registry, s.guard).Routes(s.server.Public(), s.server.Internal())
	return nil
}

// Listen opens both listeners, so that Addresses are known before Run; Run does it where nobody did.
func (s *Service) Listen() error { return s.server.Listen() }

// Addresses are those of the public and the internal listener; empty before Listen.
func (s *Service) Addresses() (public, internal string) {
	return s.server.PublicAddr(), s.server.InternalAddr()
}

// Run serves until ctx ends, then finishes the requests that are under way and returns nil.
func (s *Service) Run(ctx context.Context) error {
	return s.replica.Run(ctx, s.server, replica.Work{
		AtOnce:       []func(context.Context) error{s.guard.Run},
		OnceMigrated: []func(context.Context) error{s.relay.Run, s.sweeper.Run, s.fleet.Run},
	})
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
