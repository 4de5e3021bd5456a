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
	server  *httpx.Server
	guard   *guard.Guard
	relay   *outbox.Relay
	sweeper *sweep.Sweeper
	fleet   *fleet
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

func (s *Service) wire(ctx context.Context, cfg Config) (err error) {
	r := s.replica
	tokens := tokenapi.NewClient(r.Peer("token", cfg.TokenURL))
	if s.guard, err = guard.NewRemote(ctx, cfg.Guard, tokens, r.Redis, r.Telemetry); err != nil {
		return fmt.Errorf("guard: %w", err)
	}
	box := outbox.New(serviceName)
	s.relay = box.NewRelay(outbox.RelayConfig{DB: r.DB, Conn: r.NATS, Telemetry: r.Telemetry, Clock: time.Now})
	store := postgres.NewStore(r.DB, box)
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
	if s.server, err = r.Server(api.Spec, s.ready); err != nil { //nolint:contextcheck // every request brings its own context
		return err
	}
	httpapi.Register(s.server, httpapi.Config{Registry: registry, Guard: s.guard})
	return nil
}

// ready is about what requests need. NATS is not among it: events wait in the outbox.
func (s *Service) ready(ctx context.Context) error {
	return errors.Join(s.replica.DB.Ready(ctx), s.guard.Ready(ctx))
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
