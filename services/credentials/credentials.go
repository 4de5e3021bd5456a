// Package credentials is the credentials service: it makes the secrets agents
// authenticate with, keeps what is needed to check them, and checks them. This
// file wires it; the rules are in internal/secret, the SQL in internal/postgres,
// the routes in internal/httpapi.
package credentials

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/guard"
	"github.com/sentryagent/agentidp/pkg/httpx"
	"github.com/sentryagent/agentidp/pkg/lifecycle"
	"github.com/sentryagent/agentidp/pkg/outbox"
	"github.com/sentryagent/agentidp/pkg/registryapi"
	"github.com/sentryagent/agentidp/pkg/replica"
	"github.com/sentryagent/agentidp/pkg/tokenapi"
	"github.com/sentryagent/agentidp/services/credentials/api"
	"github.com/sentryagent/agentidp/services/credentials/internal/httpapi"
	"github.com/sentryagent/agentidp/services/credentials/internal/postgres"
	"github.com/sentryagent/agentidp/services/credentials/internal/secret"
	"github.com/sentryagent/agentidp/services/credentials/internal/vault"
)

const serviceName = "credentials"

// Service is one replica.
type Service struct {
	replica *replica.Replica
	server  *httpx.Server
	guard   *guard.Guard
	relay   *outbox.Relay
	agents  func(context.Context) error // hears of decommissioned agents until its context ends

	vault     []func(context.Context) error // keeps the token for Vault good, where there is a Vault
	deletions *deletions
}

// New wires a replica. It connects to nothing yet: everything the service depends
// on may come later. A Service that was made must be run, which also releases it.
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
	options := secret.Options{
		Store:     store,
		Registry:  registryapi.NewClient(r.Peer("registry", cfg.RegistryURL)),
		Hasher:    secret.NewRemembering(secret.NewBcrypt()),
		Clock:     time.Now,
		NewID:     func() uuid.UUID { return uuid.Must(uuid.NewV7()) },
		MaxActive: cfg.MaxActive,
	}
	durations := vault.NewDurations(r.Telemetry.Metrics.Registry)
	if cfg.Vault.Enabled() {
		client, err := vault.New(cfg.Vault, r.Telemetry.Log, durations)
		if err != nil {
			return err
		}
		options.Vault, s.vault = client, []func(context.Context) error{client.Run}
		r.Watch("vault", client.Ready)
	}
	domain := secret.NewService(options)
	s.deletions = newDeletions(domain, r.Telemetry)
	s.agents = func(ctx context.Context) error {
		return lifecycle.ConsumeAgents(ctx, r.NATS, r.Telemetry, serviceName, domain.AgentChanged)
	}
	if s.server, err = r.Server(api.Spec, s.ready); err != nil { //nolint:contextcheck // every request brings its own context
		return err
	}
	httpapi.Register(s.server, httpapi.Config{Credentials: domain, Guard: s.guard})
	return nil
}

// ready is about what requests need. NATS is not among it: events wait in the
// outbox. Nor is the registry, nor Vault: known secrets are checked and all revoked
// without them.
func (s *Service) ready(ctx context.Context) error {
	return errors.Join(s.replica.DB.Ready(ctx), s.guard.Ready(ctx))
}

// Listen opens both listeners, so that Addresses are known before Run.
func (s *Service) Listen() error { return s.server.Listen() }

// Addresses are those of the public and the internal listener, after Listen.
func (s *Service) Addresses() (public, internal string) {
	return s.server.PublicAddr(), s.server.InternalAddr()
}

// Run serves until ctx ends, drains, releases everything and returns nil. It runs
// at most once.
func (s *Service) Run(ctx context.Context) error {
	return s.replica.Run(ctx, s.server, replica.Work{
		AtOnce:       append(s.vault, s.guard.Run),
		OnceMigrated: []func(context.Context) error{s.relay.Run, s.agents, s.deletions.run},
	})
}
