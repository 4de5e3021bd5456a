package registry

import (
	"errors"

	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/replica"
)

// Config holds every setting of the service.
type Config struct {
	replica.Config

	TokenURL  config.URL `env:"TOKEN_INTERNAL_URL" required:"true" desc:"base URL of the token service's internal port: signing keys and revocations"`
	MaxAgents int64      `env:"FREE_TIER_MAX_AGENTS" default:"100" desc:"most agents that are not decommissioned, 0 = no limit"`
}

// Validate names every value that no service could work with.
func (c Config) Validate() error {
	if c.MaxAgents < 0 {
		return errors.New("FREE_TIER_MAX_AGENTS must not be negative")
	}
	return nil
}

// LoadConfig reads the settings from the environment; REGISTRY_KEY beats KEY. Its error names every setting that is
// missing or wrong.
func LoadConfig(opts ...config.Option) (cfg Config, err error) {
	err = replica.Load(serviceName, &cfg, opts...)
	return cfg, err
}
