package credentials

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

// Config is everything the service can be told.
type Config struct {
	HTTP        httpx.Config
	Telemetry   telemetry.Config
	Database    pgdb.Config
	Redis       redisx.Config
	NATS        natsx.Config
	Guard       guard.Config
	RegistryURL string `env:"REGISTRY_INTERNAL_URL" required:"true" desc:"internal URL of the registry: whether an agent is active"`
	TokenURL    string `env:"TOKEN_INTERNAL_URL" required:"true" desc:"internal URL of the token service: signing keys and revocations"`
	MaxActive   int    `env:"MAX_ACTIVE_CREDENTIALS" default:"100" desc:"active credentials one agent may have, expired ones not counted; 0 = no limit"`
}

// Validate refuses a limit below none, and peers that cannot be called.
func (c Config) Validate() error {
	var errs []error
	if c.MaxActive < 0 {
		errs = append(errs, errors.New("MAX_ACTIVE_CREDENTIALS must not be negative"))
	}
	for _, peer := range [][2]string{{"REGISTRY_INTERNAL_URL", c.RegistryURL}, {"TOKEN_INTERNAL_URL", c.TokenURL}} {
		u, err := url.Parse(peer[1])
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
			errs = append(errs, fmt.Errorf("%s must be an http or https URL", peer[0]))
		}
	}
	return errors.Join(errs...)
}

// LoadConfig reads the configuration. A variable with the prefix CREDENTIALS_
// beats the one without. The error names everything that is missing or wrong.
func LoadConfig(opts ...config.Option) (Config, error) {
	var cfg Config
	err := config.Load(&cfg, sources(opts)...)
	return cfg, err
}

// migration is all that Migrate needs: a job that runs it is given no other
// secret.
type migration struct {
	Telemetry telemetry.Config
	OwnerURL  config.Secret `env:"MIGRATE_DATABASE_URL" required:"true"`
}

// Migrate brings the schema up to date, as the role that owns it. Any number of
// replicas may do so at once.
func Migrate(ctx context.Context, opts ...config.Option) error {
	var cfg migration
	if err := config.Load(&cfg, sources(opts)...); err != nil {
		return err
	}
	log := telemetry.NewLogger(os.Stderr, name, cfg.Telemetry.LogLevel)
	return migrations.Apply(ctx, name, cfg.OwnerURL.Reveal(), log)
}

func sources(opts []config.Option) []config.Option {
	return append([]config.Option{config.Prefix(name)}, opts...)
}
