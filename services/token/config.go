package token

import (
	"errors"
	"fmt"
	"time"

	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/ratelimit"
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

	Keys KeyConfig

	SigningAlg    string        `env:"SIGNING_ALG" default:"RS256" desc:"algorithm of new signing keys: RS256, ES256 or EdDSA"`
	KeyRotation   time.Duration `env:"KEY_ROTATION" default:"720h" desc:"how long a signing key signs before the next one does, longer than KEY_PROPAGATION; 0 = until commanded"`
	JWTPrivateKey config.Secret `env:"JWT_PRIVATE_KEY" desc:"a signing key of your own to import: PEM (PKCS #8, PKCS #1 or SEC 1), of the kind that SIGNING_ALG names"`
	TokenTTL      time.Duration `env:"TOKEN_TTL" default:"3600" desc:"lifetime of access tokens, 60 s to 24 h"`

	MonthlyTokens         int64 `env:"FREE_TIER_MAX_MONTHLY_TOKENS" default:"10000" desc:"most tokens per agent and calendar month (UTC), 0 = no limit"`
	AuthFailuresPerMinute int   `env:"AUTH_FAILURES_PER_MINUTE" default:"20" desc:"most failed authentications per minute of one client from one address, ten times that per address; 0 = no limit"`
}

// KeyConfig holds the settings that both the service and its commands about signing keys have.
type KeyConfig struct {
	EncryptionKey config.Secret `env:"KEY_ENCRYPTION_KEY" required:"true" desc:"32 bytes in base64 that encrypt the signing keys at rest; the same for all replicas"`
	Propagation   time.Duration `env:"KEY_PROPAGATION" default:"10m" desc:"how long a new key is published before it signs, 10 s or more"`
}

// Validate names every value that cannot be used.
func (c KeyConfig) Validate() error {
	var errs []error
	if _, err := keys.NewSealer(c.EncryptionKey.Reveal()); err != nil && c.EncryptionKey != "" {
		errs = append(errs, fmt.Errorf("KEY_ENCRYPTION_KEY: %w", err))
	}
	if c.Propagation < keys.MinPropagation {
		errs = append(errs, fmt.Errorf("KEY_PROPAGATION must be %s or more, so that every verifier learns of a key in time", keys.MinPropagation))
	}
	return errors.Join(errs...)
}

// Validate names every value that no service could work with.
func (c TokenConfig) Validate() error {
	var errs []error
	check := func(ok bool, problem string) {
		if !ok {
			errs = append(errs, errors.New(problem))
		}
	}
	algorithm, err := keys.ParseAlgorithm(c.SigningAlg)
	if err != nil {
		errs = append(errs, fmt.Errorf("SIGNING_ALG: %w", err))
	} else if err := c.checkImport(algorithm); err != nil {
		errs = append(errs, fmt.Errorf("JWT_PRIVATE_KEY: %w", err))
	}
	propagation := max(c.Keys.Propagation, keys.MinPropagation) // one that is shorter, or could not be read, is named already
	check(c.KeyRotation == 0 || c.KeyRotation > propagation,
		fmt.Sprintf("KEY_ROTATION must be longer than KEY_PROPAGATION (%s), or 0 for no rotation by itself", propagation))
	check(c.TokenTTL >= minTokenTTL && c.TokenTTL <= maxTokenTTL, "TOKEN_TTL must be from 60 s to 24 h")
	check(c.TokenTTL%time.Second == 0, "TOKEN_TTL must be whole seconds")
	check(c.MonthlyTokens >= 0, "FREE_TIER_MAX_MONTHLY_TOKENS must not be negative")
	check(c.AuthFailuresPerMinute >= 0 && c.AuthFailuresPerMinute <= ratelimit.MaxPerMinute, fmt.Sprintf("AUTH_FAILURES_PER_MINUTE must be from 0 to %d", ratelimit.MaxPerMinute))
	return errors.Join(errs...)
}

// checkImport refuses a key that could not sign what SIGNING_ALG says.
func (c TokenConfig) checkImport(algorithm keys.Algorithm) error {
	key, err := c.imported()
	if err != nil || key == nil {
		return err
	}
	if key.Algorithm != algorithm {
		return fmt.Errorf("is a key for %s, and SIGNING_ALG is %s; set SIGNING_ALG=%s, or take the key away once it was imported",
			key.Algorithm, algorithm, key.Algorithm)
	}
	return nil
}

// imported is the key to import, nil for none.
func (c TokenConfig) imported() (*keys.PrivateKey, error) {
	if c.JWTPrivateKey == "" {
		return nil, nil
	}
	key, err := keys.ParsePrivateKey(c.JWTPrivateKey.Reveal())
	return &key, err
}

// LoadConfig reads the settings from the environment; TOKEN_KEY beats KEY. Its error names every setting that is
// missing or wrong.
func LoadConfig(opts ...config.Option) (cfg Config, err error) {
	err = replica.Load(serviceName, &cfg, opts...)
	return cfg, err
}
