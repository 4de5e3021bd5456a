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

	"github.com/google/uuid"
	"golang.org/x/mod/sumdb/note"

	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/guard"
	"github.com/sentryagent/agentidp/pkg/httpx"
	"github.com/sentryagent/agentidp/pkg/replica"
	"github.com/sentryagent/agentidp/pkg/tokenapi"
	"github.com/sentryagent/agentidp/services/audit/api"
	"github.com/sentryagent/agentidp/services/audit/internal/export"
	"github.com/sentryagent/agentidp/services/audit/internal/figures"
	"github.com/sentryagent/agentidp/services/audit/internal/httpapi"
	"github.com/sentryagent/agentidp/services/audit/internal/intake"
	"github.com/sentryagent/agentidp/services/audit/internal/merkle"
	"github.com/sentryagent/agentidp/services/audit/internal/onward"
	"github.com/sentryagent/agentidp/services/audit/internal/postgres"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
	"github.com/sentryagent/agentidp/services/audit/internal/witness"
)

const serviceName = "audit"

// Service is one replica.
type Service struct {
	replica      *replica.Replica
	server       *httpx.Server
	guard        *guard.Guard
	intake       *intake.Intake
	sequencer    *postgres.Sequencer
	figures      *figures.Watch
	onward       *onward.Publisher // nil: nothing is published onward
	witnesses    *witness.Client
	retentionURL config.Secret
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
	key, err := readLogKey(cfg.LogKey)
	if err != nil {
		return err
	}
	store, window := postgres.New(r.DB), trail.NewWindow(cfg.RetentionDays)
	s.retentionURL = cfg.RetentionURL
	sequencing := postgres.Sequencing{DB: r.DB, Signer: key.signer, PublicKey: key.public, Window: window, Clock: time.Now}
	if cfg.OnwardBytes > 0 {
		s.onward = onward.New(onward.Config{
			Log: store, Conn: r.NATS, MaxBytes: int64(cfg.OnwardBytes), Holder: uuid.New(), Logger: r.Telemetry.Log, Clock: time.Now,
		})
		sequencing.Stored = s.onward.Stored
	}
	s.sequencer = postgres.NewSequencer(sequencing)
	s.intake, err = intake.New(intake.Config{Conn: r.NATS, Recorder: s.sequencer, Telemetry: r.Telemetry, Clock: time.Now})
	if err != nil {
		return fmt.Errorf("intake: %w", err)
	}
	s.figures, err = figures.New(figures.Config{Store: store, Window: window, Telemetry: r.Telemetry, Clock: time.Now})
	if err != nil {
		return fmt.Errorf("figures: %w", err)
	}
	if s.server, err = r.Server(api.Spec, s.ready); err != nil { //nolint:contextcheck // every request brings its own context
		return err
	}
	log := merkle.New(merkle.Config{Store: postgres.NewLog(r.DB), Signer: key.signer, Window: window, Clock: time.Now})
	if err := s.witness(cfg, key, log); err != nil {
		return fmt.Errorf("witnesses: %w", err)
	}
	httpapi.Register(s.server, httpapi.Config{
		Reader:   trail.NewReader(store, window, time.Now),
		Log:      log,
		Exporter: export.New(store, log, time.Now),
		Guard:    s.guard,
	})
	return nil
}

// witness has the log's checkpoints shown to the witnesses that are set.
func (s *Service) witness(cfg Config, key logKey, log *merkle.Log) (err error) {
	peers, err := readWitnesses(cfg.Witnesses)
	if err != nil {
		return err
	}
	verifier, err := note.NewVerifier(key.public)
	if err != nil {
		return err
	}
	store := postgres.NewWitnesses(s.replica.DB)
	s.witnesses, err = witness.New(witness.Config{
		Log: log, Store: store, Verifier: verifier, Peers: peers, Quorum: cfg.WitnessQuorum,
		Telemetry: s.replica.Telemetry, Clock: time.Now,
	})
	if err == nil && len(peers) > 0 {
		log.Published = s.witnesses.Published
	}
	return err
}

// ready is about what requests need. NATS is not among it: without it the trail
// falls behind, and can be read all the same.
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
	work := replica.Work{
		AtOnce:       []func(context.Context) error{s.guard.Run},
		OnceMigrated: []func(context.Context) error{s.intake.Run, s.keepDays, s.witnesses.Run, s.figures.Run},
	}
	if s.onward != nil {
		work.OnceMigrated = append(work.OnceMigrated, s.onward.Run)
	}
	return s.replica.Run(ctx, s.server, work)
}
