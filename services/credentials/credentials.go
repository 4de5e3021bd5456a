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
	"golang.org/x/sync/errgroup"

	"github.com/sentryagent/agentidp/pkg/guard"
	"github.com/sentryagent/agentidp/pkg/httpx"
	"github.com/sentryagent/agentidp/pkg/lifecycle"
	"github.com/sentryagent/agentidp/pkg/natsx"
	"github.com/sentryagent/agentidp/pkg/outbox"
	"github.com/sentryagent/agentidp/pkg/peer"
	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/pkg/redisx"
	"github.com/sentryagent/agentidp/pkg/registryapi"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/pkg/tokenapi"
	"github.com/sentryagent/agentidp/services/credentials/api"
	"github.com/sentryagent/agentidp/services/credentials/internal/httpapi"
	"github.com/sentryagent/agentidp/services/credentials/internal/postgres"
	"github.com/sentryagent/agentidp/services/credentials/internal/secret"
)

const name = "credentials"

// flushFor bounds what a stopping service spends on its last traces.
const flushFor = 2 * time.Second

// Service is one replica.
type Service struct {
	server *httpx.Server
	guard  *guard.Guard
	relay  *outbox.Relay
	agents func(context.Context) error // hears of decommissioned agents until its context ends
	close  []func()
}

// Serve runs a replica with the settings of the environment.
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

// New wires a replica. It connects to nothing yet: everything the service depends
// on may come later. A Service that was made must be run, which also releases it.
func New(ctx context.Context, cfg Config) (*Service, error) {
	s := &Service{}
	if err := s.wire(ctx, cfg); err != nil {
		s.release()
		return nil, fmt.Errorf("credentials service: %w", err)
	}
	return s, nil
}

func (s *Service) wire(ctx context.Context, cfg Config) error {
	tel, flush, err := telemetry.New(ctx, cfg.Telemetry, name)
	if err != nil {
		return err
	}
	s.onRelease(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushFor)
		defer cancel()
		_ = flush(ctx) // the last traces are lost if the collector is away
	})
	db, err := pgdb.Open(ctx, cfg.Database, tel)
	if err != nil {
		return err
	}
	s.onRelease(db.Close)
	redis, err := redisx.Open(cfg.Redis, tel)
	if err != nil {
		return err
	}
	s.onRelease(func() { _ = redis.Close() })
	nats, err := natsx.Connect(cfg.NATS, name, tel)
	if err != nil {
		return err
	}
	s.onRelease(nats.Close)
	tokens := tokenapi.NewClient(newPeer(cfg, tel, "token", cfg.TokenURL))
	if s.guard, err = guard.NewRemote(ctx, cfg.Guard, tokens, redis, tel); err != nil {
		return err
	}
	out := outbox.New(name)
	s.relay = out.NewRelay(outbox.RelayConfig{DB: db, Conn: nats, Telemetry: tel, Clock: time.Now})
	store := postgres.NewStore(db, out)
	domain := secret.NewService(secret.Options{
		Store:     store,
		Registry:  registryapi.NewClient(newPeer(cfg, tel, "registry", cfg.RegistryURL)),
		Hasher:    secret.NewBcrypt(),
		Clock:     time.Now,
		NewID:     func() uuid.UUID { return uuid.Must(uuid.NewV7()) },
		MaxActive: cfg.MaxActive,
	})
	s.agents = func(ctx context.Context) error {
		return lifecycle.ConsumeAgents(ctx, nats, tel, name, domain.AgentChanged)
	}
	return s.serve(cfg, tel, store, domain) //nolint:contextcheck // every request brings its own context
}

// serve makes the server and its routes.
func (s *Service) serve(cfg Config, tel *telemetry.Telemetry, store *postgres.Store, domain *secret.Service) error {
	server, err := httpx.NewServer(cfg.HTTP, httpx.Options{
		Service: name, Telemetry: tel, OpenAPI: api.Spec, Ready: s.ready(store),
	})
	if err != nil {
		return err
	}
	routes := httpapi.New(domain, s.guard)
	routes.Public(server.Public())
	routes.Internal(server.Internal())
	s.server = server
	return nil
}

func newPeer(cfg Config, tel *telemetry.Telemetry, peerName, url string) *peer.Client {
	return peer.New(peer.Config{BaseURL: url, Token: cfg.HTTP.InternalAPIToken, Name: peerName, Telemetry: tel})
}

// ready is about what requests need. NATS is not among it: events wait in the
// outbox. Nor is the registry: secrets are checked and revoked without it.
func (s *Service) ready(store *postgres.Store) func(context.Context) error {
	return func(ctx context.Context) error {
		return errors.Join(store.Ready(ctx), s.guard.Ready(ctx))
	}
}

func (s *Service) onRelease(f func()) { s.close = append(s.close, f) }

// release gives back what wire took, last first.
func (s *Service) release() {
	for i := len(s.close) - 1; i >= 0; i-- {
		s.close[i]()
	}
}

// Listen opens both listeners, so that Addresses are known before Run.
func (s *Service) Listen() error { return s.server.Listen() }

// Addresses are those of the public and the internal listener, after Listen.
func (s *Service) Addresses() (public, internal string) {
	return s.server.PublicAddr(), s.server.InternalAddr()
}

// Run serves until ctx ends, drains, releases everything and returns nil. The
// events of the last requests still leave: what works in the background stops
// after the server. Run is called at most once.
func (s *Service) Run(ctx context.Context) error {
	defer s.release()
	group, failed := errgroup.WithContext(context.WithoutCancel(ctx))
	background, stop := context.WithCancel(failed)
	group.Go(func() error {
		defer stop()
		serving, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(failed, cancel)()
		return s.server.Run(serving)
	})
	for _, run := range []func(context.Context) error{s.guard.Run, s.relay.Run, s.agents} {
		group.Go(func() error { return run(background) })
	}
	return group.Wait()
}
