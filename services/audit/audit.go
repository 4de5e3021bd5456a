// Package audit is the audit service: it stores what the other services publish
// about agents, credentials and tokens, and answers questions about it. This file
// wires it; the record itself is in internal/trail, the stream in
// internal/intake, the SQL in internal/postgres, the routes in internal/httpapi.
package audit

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sentryagent/agentidp/pkg/guard"
	"github.com/sentryagent/agentidp/pkg/httpx"
	"github.com/sentryagent/agentidp/pkg/natsx"
	"github.com/sentryagent/agentidp/pkg/peer"
	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/pkg/redisx"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/pkg/tokenapi"
	"github.com/sentryagent/agentidp/services/audit/api"
	"github.com/sentryagent/agentidp/services/audit/internal/httpapi"
	"github.com/sentryagent/agentidp/services/audit/internal/intake"
	"github.com/sentryagent/agentidp/services/audit/internal/postgres"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

const name = "audit"

// flushFor bounds what a stopping service spends on its last traces.
const flushFor = 2 * time.Second

// Service is one replica.
type Service struct {
	server *httpx.Server
	guard  *guard.Guard
	intake *intake.Intake
	close  []func()
}

// New wires a replica. It connects to nothing yet: everything the service depends
// on may come later. A Service that was made must be run, which also releases it.
func New(ctx context.Context, cfg Config) (*Service, error) {
	s := &Service{}
	if err := s.wire(ctx, cfg); err != nil {
		s.release()
		return nil, fmt.Errorf("audit service: %w", err)
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
	tokens := tokenapi.NewClient(peer.New(peer.Config{
		BaseURL: cfg.TokenURL, Token: cfg.HTTP.InternalAPIToken, Name: "token", Telemetry: tel,
	}))
	if s.guard, err = guard.NewRemote(ctx, cfg.Guard, tokens, redis, tel); err != nil {
		return err
	}
	store := postgres.New(db)
	s.intake, err = intake.New(intake.Config{Conn: nats, Recorder: store, Telemetry: tel, Clock: time.Now})
	if err != nil {
		return err
	}
	s.server, err = httpx.NewServer(cfg.HTTP, httpx.Options{ //nolint:contextcheck // a request brings its own context
		Service: name, Telemetry: tel, OpenAPI: api.Spec, Ready: s.ready(store),
	})
	if err != nil {
		return err
	}
	httpapi.Register(s.server.Public(), s.guard, trail.NewReader(store, cfg.RetentionDays, time.Now))
	return nil
}

// ready is about what requests need. NATS is not among it: without it the trail
// falls behind, and can be read all the same.
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

// Listen opens both listeners, so that Addresses are known before Run.
func (s *Service) Listen() error { return s.server.Listen() }

// Addresses are those of the public and the internal listener, after Listen.
func (s *Service) Addresses() (public, internal string) {
	return s.server.PublicAddr(), s.server.InternalAddr()
}

// Run serves until ctx ends, drains, releases everything and returns nil. It runs
// at most once.
func (s *Service) Run(ctx context.Context) error {
	defer s.release()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.server.Run(ctx) })
	group.Go(func() error { return s.guard.Run(ctx) })
	group.Go(func() error { return s.intake.Run(ctx) })
	return group.Wait()
}
