package audit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/idle"
	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/pkg/replica"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/services/audit/internal/postgres"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

// ownerConns is how many connections a job of the schema's owner opens.
const ownerConns = 2

// asOwner is what the jobs of the schema's owner are told. The key is needed only
// where events of before the log have to be taken into it.
type asOwner struct {
	Telemetry     telemetry.Config
	OwnerURL      config.Secret `env:"MIGRATE_DATABASE_URL" required:"true"`
	RetentionDays int           `env:"AUDIT_RETENTION_DAYS" default:"90"`
	LogKey        config.Secret `env:"AUDIT_LOG_KEY"`
}

// Validate refuses a retention window that has no end.
func (o asOwner) Validate() error { return checkRetention(o.RetentionDays) }

// Migrate brings the schema up to date, as the role that owns it
// (MIGRATE_DATABASE_URL), and takes events of before the log into it.
func Migrate(ctx context.Context, opts ...config.Option) error {
	if err := replica.Migrate(ctx, serviceName, opts...); err != nil {
		return err
	}
	var cfg asOwner
	if err := replica.Load(serviceName, &cfg, opts...); err != nil {
		return err
	}
	return Adopt(ctx, cfg.OwnerURL, cfg.LogKey, telemetry.NewLogger(os.Stderr, serviceName, cfg.Telemetry.LogLevel))
}

// Adopt gives events that were stored before the trail was a log their leaves. It
// needs the key of the log (AUDIT_LOG_KEY) only if there are any.
func Adopt(ctx context.Context, ownerURL, key config.Secret, log *slog.Logger) error {
	db, err := openAsOwner(ctx, ownerURL, nil)
	if err != nil {
		return err
	}
	defer db.Close()
	are, err := postgres.Unsequenced(ctx, db)
	if err != nil || !are {
		return err
	}
	if key == "" {
		return errors.New("AUDIT_LOG_KEY: required, as there are events to take into the audit log")
	}
	signing, err := readLogKey(key)
	if err != nil {
		return err
	}
	sequencer := postgres.NewSequencer(postgres.Sequencing{
		DB: db, Signer: signing.signer, PublicKey: signing.public, Clock: time.Now,
		Window: trail.NewWindow(maxRetentionDays), // what is past the window goes with its day, as all events do
	})
	log.InfoContext(ctx, "taking the events of before into the audit log")
	adopted, err := sequencer.Adopt(ctx)
	if err != nil {
		return fmt.Errorf("take the events of before into the audit log: %w", err)
	}
	log.InfoContext(ctx, "the events of before are in the audit log", slog.Int64("events", adopted))
	return nil
}

// Retain removes the days before the retention window, as the role that owns the
// schema (MIGRATE_DATABASE_URL), and makes the partitions of the coming ones.
func Retain(ctx context.Context, opts ...config.Option) error {
	var cfg asOwner
	if err := replica.Load(serviceName, &cfg, opts...); err != nil {
		return err
	}
	db, err := openAsOwner(ctx, cfg.OwnerURL, nil)
	if err != nil {
		return err
	}
	defer db.Close()
	r := postgres.Retention{DB: db, Window: trail.NewWindow(cfg.RetentionDays), Clock: time.Now}
	log := telemetry.NewLogger(os.Stderr, serviceName, cfg.Telemetry.LogLevel)
	if err := drop(ctx, r, log); err != nil {
		return err
	}
	return postgres.NewSequencer(postgres.Sequencing{DB: db, Clock: time.Now}).PrepareAhead(ctx)
}

func openAsOwner(ctx context.Context, url config.Secret, tel *telemetry.Telemetry) (*pgdb.DB, error) {
	return pgdb.Open(ctx, pgdb.Config{URL: url, MaxConns: ownerConns}, tel)
}

func drop(ctx context.Context, r postgres.Retention, log *slog.Logger) error {
	dropped, err := r.Drop(ctx)
	for _, one := range dropped {
		log.InfoContext(ctx, "a day before the retention window was removed",
			slog.String("day", one.Day.Format(time.DateOnly)), slog.Int64("events", one.Events))
	}
	return err
}

const (
	keepDaysEvery = time.Hour
	keepDaysAgain = time.Minute
)

// keepDays makes the partitions of the coming days and, where the service may, removes
// those before the window, until ctx ends. It returns nil.
func (s *Service) keepDays(ctx context.Context) error {
	for ctx.Err() == nil {
		wait := keepDaysEvery
		if err := s.keepDaysOnce(ctx); err != nil && ctx.Err() == nil {
			s.replica.Telemetry.Log.WarnContext(ctx, "the days of the trail are not in order, will try again", slog.Any("error", err))
			wait = keepDaysAgain
		}
		_ = idle.For(ctx, wait)
	}
	return nil
}

func (s *Service) keepDaysOnce(ctx context.Context) error {
	if err := s.sequencer.PrepareAhead(ctx); err != nil {
		return err
	}
	if s.retentionURL == "" {
		return nil
	}
	db, err := openAsOwner(ctx, s.retentionURL, s.replica.Telemetry)
	if err != nil {
		return err
	}
	defer db.Close()
	return drop(ctx, postgres.Retention{DB: db, Window: s.sequencer.Window, Clock: time.Now}, s.replica.Telemetry.Log)
}
