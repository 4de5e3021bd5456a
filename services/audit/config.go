package audit

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

// maxRetentionDays is a hundred years: beyond it, times leave what Postgres and
// time.Duration can hold.
const maxRetentionDays = 36500

// Config is everything the service can be told.
type Config struct {
	HTTP          httpx.Config
	Telemetry     telemetry.Config
	Database      pgdb.Config
	Redis         redisx.Config
	NATS          natsx.Config
	Guard         guard.Config
	TokenURL      string `env:"TOKEN_INTERNAL_URL" required:"true" desc:"internal URL of the token service: signing keys and revocations"`
	RetentionDays int    `env:"AUDIT_RETENTION_DAYS" default:"90" desc:"days an audit event is shown, 1 to 36500"`
}

// Validate refuses a retention window that shows nothing or has no end, and a
// token service that cannot be called.
func (c Config) Validate() error {
	var errs []error
	if c.RetentionDays < 1 || c.RetentionDays > maxRetentionDays {
		errs = append(errs, fmt.Errorf("AUDIT_RETENTION_DAYS must be 1 to %d", maxRetentionDays))
	}
	token, err := url.Parse(c.TokenURL)
	if err != nil || (token.Scheme != "http" && token.Scheme != "https") || token.Host == "" {
		errs = append(errs, errors.New("TOKEN_INTERNAL_URL must be an http or https URL"))
	}
	return errors.Join(errs...)
}

// LoadConfig reads the configuration. A variable with the prefix AUDIT_ beats the
// one without. The error names everything that is missing or wrong.
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
