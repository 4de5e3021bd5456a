package token

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/replica"
	"github.com/sentryagent/agentidp/services/token/internal/keys"
)

const (
	minTokenTTL = time.Minute
	// maxTokenTTL is what the lifetimes of revocations and keys reckon with.
	maxTokenTTL = 24 * time.Hour
)

// Config holds every setting of the service.
type Config struct {
	replica.Config

	Tokens TokenConfig
}

// TokenConfig holds the settings that no other service has.
type TokenConfig struct {
	RegistryURL    config.URL `env:"REGISTRY_INTERNAL_URL" required:"true" desc:"base URL of the registry's internal port"`
	CredentialsURL config.URL `env:"CREDENTIALS_INTERNAL_URL" required:"true" desc:"base URL of the credentials service's internal port"`

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

// LoadConfig reads the settings from the environment; TOKEN_KEY beats KEY. Its error names every setting that is
// missing or wrong.
func LoadConfig(opts ...config.Option) (cfg Config, err error) {
	err = replica.Load(serviceName, &cfg, opts...)
	return cfg, err
}

// Migrate brings the schema up to date, as the role that owns it (MIGRATE_DATABASE_URL).
func Migrate(ctx context.Context, opts ...config.Option) error {
	return replica.Migrate(ctx, serviceName, opts...)
}
