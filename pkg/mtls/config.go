package mtls

import (
	"errors"
	"strings"

	"github.com/sentryagent/agentidp/pkg/telemetry"
)

// Config names the files of a service's certificate, all in PEM. Either all three are set, or none: then there is no TLS.
type Config struct {
	CertFile string `env:"TLS_CERT_FILE" desc:"certificate of this service (PEM, with its intermediates), for servers and for clients; with it the internal listener and the calls to peers are mutual TLS"`
	KeyFile  string `env:"TLS_KEY_FILE" desc:"private key of TLS_CERT_FILE (PEM)"`
	CAFile   string `env:"TLS_CA_FILE" desc:"certificates of the authorities (PEM) that the peers' certificates must come from"`
}

// Enabled tells whether a certificate is set.
func (c Config) Enabled() bool { return c.CertFile != "" }

type file struct{ setting, path string }

func (c Config) files() [3]file {
	return [...]file{{"TLS_CERT_FILE", c.CertFile}, {"TLS_KEY_FILE", c.KeyFile}, {"TLS_CA_FILE", c.CAFile}}
}

// Validate names what is missing, and refuses files that cannot be used.
func (c Config) Validate() error {
	var missing []string
	for _, file := range c.files() {
		if file.path == "" {
			missing = append(missing, file.setting)
		}
	}
	switch len(missing) {
	case 3:
		return nil
	case 0:
		_, err := c.load()
		return err
	default:
		return errors.New(strings.Join(missing, ", ") + ": set TLS_CERT_FILE, TLS_KEY_FILE and TLS_CA_FILE, or none of them")
	}
}

// Open makes the identity of a service from its files; nil where no certificate is set.
func Open(cfg Config, tel *telemetry.Telemetry) (*Identity, error) {
	expiry := newExpiry(tel.Metrics.Registry)
	if !cfg.Enabled() {
		return nil, nil
	}
	loaded, err := cfg.load()
	if err != nil {
		return nil, err
	}
	i := &Identity{cfg: cfg, log: tel.Log, expiry: expiry}
	i.use(loaded)
	return i, nil
}
