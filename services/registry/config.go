package registry

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"

	"github.com/sentryagent/agentidp/migrations"
	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/guard"
	"github.com/sentryagent/agentidp/pkg/httpx"
	"github.com/sentryagent/agentidp/pkg/natsx"
	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/pkg/redisx"
	"github.com/sentryagent/agentidp/pkg/telemetry"
)

// Config holds every setting of the service.
type Config struct {
	HTTP      httpx.Config
	Telemetry telemetry.Config
	Database  pgdb.Config
	Redis     redisx.Config
	NATS      natsx.Config
	Guard     guard.Config

	TokenURL  string `env:"TOKEN_INTERNAL_URL" required:"true" desc:"base URL of the token service's internal port: signing keys and revocations"`
	MaxAgents int64  `env:"FREE_TIER_MAX_AGENTS" default:"100" desc:"most agents that are not decommissioned, 0 = no limit"`
}

// Validate names every value that no service could work with.
func (c Config) Validate() error {
	var errs []error
	if c.MaxAgents < 0 {
		errs = append(errs, errors.New("FREE_TIER_MAX_AGENTS must not be negative"))
	}
	if peer, err := url.Parse(c.TokenURL); err != nil || (peer.Scheme != "http" && peer.Scheme != "https") || peer.Host == "" {
		errs = append(errs, errors.New("TOKEN_INTERNAL_URL must be an http or https URL"))
	}
	return errors.Join(errs...)
}

// LoadConfig reads the settings from the environment; REGISTRY_KEY beats KEY. Its error names every setting that is
// missing or wrong.
func LoadConfig(opts ...config.Option) (Config, error) {
	var cfg Config
	err := config.Load(&cfg, append([]config.Option{config.Prefix(serviceName)}, opts...)...)
	return cfg, err
}

// migrateConfig is all that applying the migrations needs: a job that does so is given no other secret.
type migrateConfig struct {
	Telemetry telemetry.Config

	URL config.Secret `env:"MIGRATE_DATABASE_URL" required:"true" desc:"Postgres URL of the role that owns the schema"`
}

// Migrate brings the schema up to date, as the role that owns it. Any number of replicas may do so at once.
func Migrate(ctx context.Context, opts ...config.Option) error {
	var cfg migrateConfig
	if err := config.Load(&cfg, append([]config.Option{config.Prefix(serviceName)}, opts...)...); err != nil {
		return err
	}
	log := telemetry.NewLogger(os.Stderr, serviceName, cfg.Telemetry.LogLevel)
	if err := migrations.Apply(ctx, serviceName, cfg.URL.Reveal(), log); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return nil
}
