// Package token is the face of the token service, which proves who an agent is: it authenticates clients, issues,
// introspects and revokes access tokens, and publishes the keys that verify them. This package reads the settings,
// puts the parts together and runs them; it is the only one that knows all of them, and it holds no rule of its own.
package token

import (
	"context"
	"errors"

	"github.com/sentryagent/agentidp/pkg/guard"
	"github.com/sentryagent/agentidp/pkg/httpx"
	"github.com/sentryagent/agentidp/pkg/lifecycle"
	"github.com/sentryagent/agentidp/pkg/outbox"
	"github.com/sentryagent/agentidp/pkg/replica"
	"github.com/sentryagent/agentidp/services/token/api"
	"github.com/sentryagent/agentidp/services/token/internal/httpapi"
	"github.com/sentryagent/agentidp/services/token/internal/hydration"
	"github.com/sentryagent/agentidp/services/token/internal/invalidation"
	"github.com/sentryagent/agentidp/services/token/internal/journal"
	"github.com/sentryagent/agentidp/services/token/internal/keys"
	"github.com/sentryagent/agentidp/services/token/internal/quota"
	"github.com/sentryagent/agentidp/services/token/internal/registry"
	"github.com/sentryagent/agentidp/services/token/internal/usage"
)

const (
	serviceName = "token"
	// cutoffsDurable is the consumer that all replicas share.
	cutoffsDurable = "token-cutoffs"
)

// Service is one replica of the token service.
type Service struct {
	replica *replica.Replica
	server  *httpx.Server

	guard    *guard.Guard
	ring     *keys.Ring
	epochs   *invalidation.Epochs
	agents   *registry.Agents
	journal  *journal.Journal
	budget   *quota.Budget
	failures *quota.Failures
	uses     *usage.Reporter
	sweeps   []func(context.Context) error
	hydrator *hydration.Hydrator
	relay    *outbox.Relay
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
	if s.server, err = s.replica.Server(api.Spec, s.ready); err != nil { //nolint:contextcheck // every request brings its own context
		return err
	}
	routes, err := s.parts(ctx, cfg)
	if err != nil {
		return err
	}
	s.server.InCrowd(s.failures.Crowded)
	return httpapi.Register(s.server, routes)
}

// ready is nil once tokens can be issued and verified. Redis and NATS are not asked: the service works without them.
// Nor is Postgres, once the schema was seen: without it tokens for known agents, the JWKS and most checks go on, and all
// replicas would leave their balancer at the same time.
func (s *Service) ready(ctx context.Context) error {
	return errors.Join(s.ring.Ready(), s.guard.Ready(ctx))
}

// Listen opens both listeners, so that Addresses are known before Run; Run does it where nobody did.
func (s *Service) Listen() error { return s.server.Listen() }

// Addresses are those of the public and the internal listener; empty before Listen.
func (s *Service) Addresses() (public, internal string) {
	return s.server.PublicAddr(), s.server.InternalAddr()
}

// Run serves until ctx ends, then finishes the requests that are under way and returns nil. What works behind the
// requests writes what it still holds then.
func (s *Service) Run(ctx context.Context) error {
	return s.replica.Run(ctx, s.server, replica.Work{
		// What is remembered of agents is followed before the first of them is asked for.
		AtOnce: []func(context.Context) error{s.guard.Run, s.watch, s.agents.Run},
		OnceMigrated: append([]func(context.Context) error{
			s.ring.Run, s.consume, s.hydrator.Run, s.hydrator.RetryAnnouncements,
			s.journal.Run, s.relay.Run, s.budget.Run, s.uses.Run,
		}, s.sweeps...),
	})
}

// watch makes every replica forget what it remembers of agents that change.
func (s *Service) watch(ctx context.Context) error {
	return lifecycle.Watch(ctx, s.replica.NATS, s.replica.Telemetry, lifecycle.Watcher{
		Agent:      func(change lifecycle.AgentChanged) { s.epochs.Changed(change.AgentID) },
		Credential: func(change lifecycle.CredentialChanged) { s.epochs.Changed(change.AgentID) },
		Gap:        s.epochs.Missed,
	})
}

// consume keeps, in one of the replicas, what changes of agents mean for their tokens.
func (s *Service) consume(ctx context.Context) error {
	return lifecycle.ConsumeAgents(ctx, s.replica.NATS, s.replica.Telemetry, cutoffsDurable, s.hydrator.Agent)
}
