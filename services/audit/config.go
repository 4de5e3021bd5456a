package audit

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/mod/sumdb/note"

	"github.com/sentryagent/agentidp/pkg/auditlog"
	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/replica"
	"github.com/sentryagent/agentidp/services/audit/internal/witness"
)

// maxRetentionDays is a hundred years: beyond it, times leave what Postgres and
// time.Duration can hold.
const maxRetentionDays = 36500

// Config is everything the service can be told.
type Config struct {
	replica.Config

	TokenURL      config.URL `env:"TOKEN_INTERNAL_URL" required:"true" desc:"base URL of the token service's internal port: signing keys and revocations"`
	RetentionDays int        `env:"AUDIT_RETENTION_DAYS" default:"90" desc:"days an audit event is shown and kept, 1 to 36500"`

	RetentionURL config.Secret `env:"AUDIT_RETENTION_DATABASE_URL" desc:"Postgres URL of audit_owner; with it the service removes the days before the retention window, without it audit retention has to be run"`
	OnwardBytes  int           `env:"AUDIT_STREAM_MAX_BYTES" default:"268435456" desc:"bytes of stored events that the stream AUDIT_LOG keeps for forwarders, at most 7 days of them; 0 publishes none"`

	LogKey config.Secret `env:"AUDIT_LOG_KEY" required:"true" desc:"secret key that signs the checkpoints of the audit log (PRIVATE+KEY+origin+...), the same for all replicas; agentidp audit keygen makes one"`

	Witnesses     []string `env:"AUDIT_WITNESSES" desc:"witnesses that cosign the checkpoints, comma separated: <public key>@<URL>"`
	WitnessQuorum int      `env:"AUDIT_WITNESS_QUORUM" default:"1" desc:"how many of AUDIT_WITNESSES must have signed a checkpoint before it is given out with their signatures"`
}

// Validate refuses a retention window that shows nothing or has no end, and what
// is no key. An error never carries the key.
func (c Config) Validate() error {
	var failures []error
	failures = append(failures, checkRetention(c.RetentionDays))
	if _, err := pgxpool.ParseConfig(c.RetentionURL.Reveal()); err != nil && c.RetentionURL != "" {
		failures = append(failures, errors.New("AUDIT_RETENTION_DATABASE_URL is not a valid Postgres URL"))
	}
	if c.OnwardBytes < 0 {
		failures = append(failures, errors.New("AUDIT_STREAM_MAX_BYTES must not be negative"))
	}
	if _, err := readLogKey(c.LogKey); err != nil && c.LogKey != "" {
		failures = append(failures, err)
	}
	peers, err := readWitnesses(c.Witnesses)
	if err != nil {
		failures = append(failures, err)
	}
	if c.WitnessQuorum < 1 || len(peers) > 0 && c.WitnessQuorum > len(peers) {
		failures = append(failures, errors.New("AUDIT_WITNESS_QUORUM must be 1 to the number of AUDIT_WITNESSES"))
	}
	return errors.Join(failures...)
}

func readWitnesses(texts []string) ([]witness.Peer, error) {
	// The same key may be written as one of plain Ed25519 or as one of a cosignature.
	type identity struct {
		name string
		hash uint32
	}
	peers, named := []witness.Peer{}, map[identity]bool{}
	for _, text := range texts {
		peer, err := witness.ParsePeer(text)
		if err != nil {
			return nil, fmt.Errorf("AUDIT_WITNESSES: %w", err)
		}
		known := identity{peer.Verifier.Name(), peer.Verifier.KeyHash()}
		if named[known] {
			return nil, fmt.Errorf("AUDIT_WITNESSES names %s twice", known.name)
		}
		named[known] = true
		peers = append(peers, peer)
	}
	return peers, nil
}

func checkRetention(days int) error {
	if days < 1 || days > maxRetentionDays {
		return fmt.Errorf("AUDIT_RETENTION_DAYS must be 1 to %d", maxRetentionDays)
	}
	return nil
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
	err = replica.Load(serviceName, &cfg, opts...)
	return cfg, err
}
