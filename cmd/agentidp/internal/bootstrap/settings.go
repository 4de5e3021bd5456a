package bootstrap

import (
	"errors"
	"fmt"
	"time"

	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/credentialsapi"
	"github.com/sentryagent/agentidp/pkg/mtls"
	"github.com/sentryagent/agentidp/pkg/peer"
	"github.com/sentryagent/agentidp/pkg/registryapi"
	"github.com/sentryagent/agentidp/pkg/telemetry"
)

// callTimeout bounds one call; issuing a credential computes one bcrypt.
const callTimeout = 10 * time.Second

// Settings say where the internal APIs are.
type Settings struct {
	RegistryURL    config.URL `env:"REGISTRY_INTERNAL_URL" required:"true" desc:"Base URL of the registry's internal port."`
	CredentialsURL config.URL `env:"CREDENTIALS_INTERNAL_URL" required:"true" desc:"Base URL of the credentials service's internal port."`
	// PublicURL is only kept beside the credential; nothing is asked of it.
	PublicURL config.URL    `env:"AGENTIDP_URL" desc:"Base URL of the public routes, as agents know it."`
	Token     config.Secret `env:"INTERNAL_API_TOKEN" required:"true" desc:"Token that the services ask of each other; or INTERNAL_API_TOKEN_FILE."`
	TLS       mtls.Config
}

// LoadSettings reads them from the environment and names everything that is missing or wrong.
func LoadSettings(opts ...config.Option) (Settings, error) {
	var s Settings
	if err := config.Load(&s, opts...); err != nil {
		return Settings{}, err
	}
	return s, nil
}

// Validate refuses to call by plain HTTP where there is a certificate.
func (s Settings) Validate() error {
	var failures []error
	for _, setting := range []struct {
		name  string
		value config.URL
	}{{"REGISTRY_INTERNAL_URL", s.RegistryURL}, {"CREDENTIALS_INTERNAL_URL", s.CredentialsURL}} {
		if s.TLS.Enabled() && setting.value.Plain() {
			failures = append(failures, fmt.Errorf("%s: must be an https URL, as TLS_CERT_FILE is set", setting.name))
		}
	}
	return errors.Join(failures...)
}

// NewClients connects to nothing yet. It fails for TLS files that cannot be used.
func NewClients(s Settings, tel *telemetry.Telemetry) (Clients, error) {
	identity, err := mtls.Open(s.TLS, tel)
	if err != nil {
		return Clients{}, err
	}
	client := func(name string, baseURL config.URL) *peer.Client {
		return peer.New(peer.Config{BaseURL: string(baseURL), Token: s.Token, Name: name, TLS: identity, Timeout: callTimeout, Telemetry: tel})
	}
	return Clients{
		Registry:    registryapi.NewClient(client("registry", s.RegistryURL)),
		Credentials: credentialsapi.NewClient(client("credentials", s.CredentialsURL)),
	}, nil
}
