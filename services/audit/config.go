package audit

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/sentryagent/agentidp/pkg/auditlog"
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
	RetentionDays int        `env:"AUDIT_RETENTION_DAYS" default:"90" desc:"days an audit event is shown and kept, 1 to 36500"`

	LogKey config.Secret `env:"AUDIT_LOG_KEY" required:"true" desc:"secret key that signs the checkpoints of the audit log (PRIVATE+KEY+origin+...), the same for all replicas; agentidp audit keygen makes one"`
}

// Validate refuses a retention window that shows nothing or has no end, and what
// is no key. An error never carries the key.
func (c Config) Validate() error {
	var failures []error
	if c.RetentionDays < 1 || c.RetentionDays > maxRetentionDays {
		failures = append(failures, fmt.Errorf("AUDIT_RETENTION_DAYS must be 1 to %d", maxRetentionDays))
	}
	if _, err := readLogKey(c.LogKey); err != nil && c.LogKey != "" {
		failures = append(failures, err)
	}
	return errors.Join(failures...)
}

// logKey signs for the audit log; the name of the signer is the log's origin.
type logKey struct {
	signer note.Signer
	public string
}

func readLogKey(secret config.Secret) (logKey, error) {
	text := strings.TrimSpace(secret.Reveal())
	signer, err := note.NewSigner(text)
	if err != nil {
		return logKey{}, errLogKey
	}
	public, err := auditlog.PublicKey(text)
	if err != nil {
		return logKey{}, errLogKey
	}
	return logKey{signer: signer, public: public}, nil
}

var errLogKey = errors.New("AUDIT_LOG_KEY is not a secret key of an audit log (PRIVATE+KEY+origin+...); agentidp audit keygen makes one")

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
