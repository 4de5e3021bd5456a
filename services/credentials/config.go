package credentials

import (
	"errors"

	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/replica"
	"github.com/sentryagent/agentidp/services/credentials/internal/vault"
)

// Config is everything the service can be told.
type Config struct {
	replica.Config

	RegistryURL config.URL `env:"REGISTRY_INTERNAL_URL" required:"true" desc:"base URL of the registry's internal port: whether an agent is active"`
	TokenURL    config.URL `env:"TOKEN_INTERNAL_URL" required:"true" desc:"base URL of the token service's internal port: signing keys and revocations"`
	MaxActive   int        `env:"MAX_ACTIVE_CREDENTIALS" default:"100" desc:"active credentials one agent may have, expired ones not counted; 0 = no limit"`
	Vault       vault.Config
}

// Validate refuses a limit below none.
func (c Config) Validate() error {
	if c.MaxActive < 0 {
		return errors.New("MAX_ACTIVE_CREDENTIALS must not be negative")
	}
	return nil
}

// LoadConfig reads the configuration. A variable with the prefix CREDENTIALS_
// beats the one without. The error names everything that is missing or wrong.
func LoadConfig(opts ...config.Option) (cfg Config, err error) {
	err = replica.Load(serviceName, &cfg, opts...)
	return cfg, err
}
