package token

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"time"

	"github.com/sentryagent/agentidp/migrations"
	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/guard"
	"github.com/sentryagent/agentidp/pkg/httpx"
	"github.com/sentryagent/agentidp/pkg/natsx"
	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/pkg/redisx"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/services/token/internal/keys"
)

const (
	minTokenTTL = time.Minute
	// maxTokenTTL is what the lifetimes of revocations and keys reckon with.
	maxTokenTTL = 24 * time.Hour
)

// Config holds every setting of the service.
type Config struct {
	HTTP      httpx.Config
	Telemetry telemetry.Config
	Database  pgdb.Config
	Redis     redisx.Config
	NATS      natsx.Config
	Guard     guard.Config
	Tokens    TokenConfig
}

// TokenConfig holds the settings that no other service has.
type TokenConfig struct {
	RegistryURL    string `env:"REGISTRY_INTERNAL_URL" required:"true" desc:"base URL of the registry's internal port"`
	CredentialsURL string `env:"CREDENTIALS_INTERNAL_URL" required:"true" desc:"base URL of the credentials service's internal port"`

	KeyEncryptionKey config.Secret `env:"KEY_ENCRYPTION_KEY" required:"true" desc:"32 bytes in base64 that encrypt the signing keys at rest; the same for all replicas"`
	SigningAlg       string        `env:"SIGNING_ALG" default:"RS256" desc:"algorithm of new signing keys: RS256, ES256 or EdDSA"`
	KeyPropagation   time.Duration `env:"KEY_PROPAGATION" default:"10m" desc:"how long a new key is published before it signs"`
	TokenTTL         time.Duration `env:"TOKEN_TTL" default:"3600" desc:"lifetime of access tokens, 60 s to 24 h"`

	MonthlyTokens         int64 `env:"FREE_TIER_MAX_MONTHLY_TOKENS" default:"10000" desc:"most tokens per agent and calendar month (UTC), 0 = no limit"`
	AuthFailuresPerMinute int   `env:"AUTH_FAILURES_PER_MINUTE" default:"20" desc:"most failed authentications per minute of one client from one address, ten times that per address; 0 = no limit"`
}

// Validate names every value that no service could work with.
func (c TokenConfig) Validate() error {
	var errs []error
	check := func(ok bool, problem string) {
		if !ok {
			errs = append(errs, errors.New(problem))
		}
	}
	check(isURL(c.RegistryURL), "REGISTRY_INTERNAL_URL must be an http or https URL")
	check(isURL(c.CredentialsURL), "CREDENTIALS_INTERNAL_URL must be an http or https URL")
	if _, err := keys.NewSealer(c.KeyEncryptionKey.Reveal()); err != nil {
		errs = append(errs, fmt.Errorf("KEY_ENCRYPTION_KEY: %w", err))
	}
	if _, err := keys.ParseAlgorithm(c.SigningAlg); err != nil {
		errs = append(errs, fmt.Errorf("SIGNING_ALG: %w", err))
	}
	check(c.KeyPropagation >= 0, "KEY_PROPAGATION must not be negative")
	check(c.TokenTTL >= minTokenTTL && c.TokenTTL <= maxTokenTTL, "TOKEN_TTL must be from 60 s to 24 h")
	check(c.TokenTTL%time.Second == 0, "TOKEN_TTL must be whole seconds")
	check(c.MonthlyTokens >= 0, "FREE_TIER_MAX_MONTHLY_TOKENS must not be negative")
	check(c.AuthFailuresPerMinute >= 0, "AUTH_FAILURES_PER_MINUTE must not be negative")
	return errors.Join(errs...)
}

func isURL(raw string) bool {
	parsed, err := url.Parse(raw)
	return err == nil && parsed.Host != "" && (parsed.Scheme == "http" || parsed.Scheme == "https")
}

// LoadConfig reads the settings from the environment; TOKEN_KEY beats KEY. Its error names every setting that is
// missing or wrong.
func LoadConfig(opts ...config.Option) (Config, error) {
	var cfg Config
	err := config.Load(&cfg, append([]config.Option{config.Prefix(serviceName)}, opts...)...)
	return cfg, err
}

// migrateConfig is all that applying the migrations needs: a job that does so is given no other secret.
type migrateConfig struct {
	Telemetry telemetry.Config

	URL config.Secret `env:"MIGRATE_DATABASE_URL" required:"true"`
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
