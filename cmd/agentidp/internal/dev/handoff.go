package dev

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strings"

	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/cmd/agentidp/internal/atomicfile"
	"github.com/sentryagent/agentidp/cmd/agentidp/internal/bootstrap"
	"github.com/sentryagent/agentidp/pkg/auditlog"
	"github.com/sentryagent/agentidp/pkg/config"
)

// What a script finds in the data directory once /healthz at the ingress answers 200.
const (
	operatorFileName = "operator.env"
	servicesFileName = "services.json"
	logKeyFileName   = "audit-log.pub"
)

// operator is the credential that scripts and the printed curl lines use.
type operator struct {
	clientID uuid.UUID
	secret   config.Secret
}

// endpoint is where a service listens.
type endpoint struct {
	PublicURL   string `json:"publicUrl"`
	InternalURL string `json:"internalUrl"`
}

// handoff is what services.json holds.
type handoff struct {
	URL string `json:"url"` // of the ingress
	// InternalTokenFile holds the token that every internal port asks for.
	InternalTokenFile string              `json:"internalTokenFile"`
	Services          map[string]endpoint `json:"services"`
}

// writeOperatorFile writes operator.env, which a shell can source.
func writeOperatorFile(path, baseURL string, op operator) error {
	var text strings.Builder
	for _, v := range (bootstrap.Handover{URL: baseURL, ClientID: op.clientID, ClientSecret: op.secret}).Variables() {
		fmt.Fprintf(&text, "%s=%s\n", v[0], shellQuote(v[1]))
	}
	return atomicfile.Write(path, []byte(text.String()), 0o600)
}

// writeLogKeyFile writes the public key that checks what the audit log signs with secret.
func writeLogKeyFile(path string, secret config.Secret) error {
	public, err := auditlog.PublicKey(strings.TrimSpace(secret.Reveal()))
	if err != nil {
		return errors.New("AUDIT_LOG_KEY is not a secret key of an audit log")
	}
	return atomicfile.Write(path, []byte(public+"\n"), 0o600)
}

func writeServicesFile(path string, h handoff) error {
	content, err := json.MarshalIndent(h, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", servicesFileName, err)
	}
	return atomicfile.Write(path, append(content, '\n'), 0o600)
}

// storedOperator is the form in which the credential outlives a run. operator.env cannot do that: it is
// removed at the start of the next one, so that nobody reads it too early.
type storedOperator struct {
	ClientID     uuid.UUID `json:"clientId"`
	ClientSecret string    `json:"clientSecret"`
}

// loadOperator reads the stored credential; found is false where there is none that could be used.
func loadOperator(path string) (op operator, found bool, err error) {
	content, err := os.ReadFile(path) //nolint:gosec // a file of our own data directory
	if errors.Is(err, fs.ErrNotExist) {
		return operator{}, false, nil
	}
	if err != nil {
		return operator{}, false, fmt.Errorf("read the operator's credential: %w", err)
	}
	var stored storedOperator
	if err := json.Unmarshal(content, &stored); err != nil || stored.ClientID == uuid.Nil || stored.ClientSecret == "" {
		return operator{}, false, nil //nolint:nilerr // a broken file is a lost secret: a new one is issued
	}
	return operator{clientID: stored.ClientID, secret: config.Secret(stored.ClientSecret)}, true, nil
}

func storeOperator(path string, op operator) error {
	content, err := json.Marshal(storedOperator{ClientID: op.clientID, ClientSecret: op.secret.Reveal()})
	if err != nil {
		return fmt.Errorf("encode the operator's credential: %w", err)
	}
	return atomicfile.Write(path, append(content, '\n'), 0o600)
}

// shellQuote leaves a value alone that no shell changes, and quotes every other.
func shellQuote(value string) string {
	if regexp.MustCompile(`^[A-Za-z0-9_./:@%+=,-]+$`).MatchString(value) {
		return value
	}
	return "'" + strings.ReplaceAll(value, "'", `'\''`) + "'"
}
