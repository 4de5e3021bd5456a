package audit

import (
	"context"
	"fmt"

	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/replica"
)

// maxRetentionDays is a hundred years: beyond it, times leave what Postgres and
// time.Duration can hold.
const maxRetentionDays = 36500

// Config is everything the service can be told.
type Config struct {
	replica.Config

	TokenURL      config.URL `env:"TOKEN_INTERNAL_URL" required:"true" desc:"base URL of the token service's internal port: signing keys and revocations"`
	RetentionDays int        `env:"AUDIT_RETENTION_DAYS" default:"90" desc:"days an audit event is shown, 1 to 36500"`
}

// Validate refuses a retention window that shows nothing or has no end.
func (c Config) Validate() error {
	if c.RetentionDays < 1 || c.RetentionDays > maxRetentionDays {
		return fmt.Errorf("AUDIT_RETENTION_DAYS must be 1 to %d", maxRetentionDays)
	}
	return nil
}

// LoadConfig reads the configuration. A variable with the prefix AUDIT_ beats the
// one without. The error names everything that is missing or wrong.
func LoadConfig(opts ...config.Option) (cfg Config, err error) {
	err = replica.Load(name, &cfg, opts...)
	return cfg, err
}

// Migrate brings the schema up to date, as the role that owns it (MIGRATE_DATABASE_URL).
func Migrate(ctx context.Context, opts ...config.Option) error {
	return replica.Migrate(ctx, name, opts...)
}
