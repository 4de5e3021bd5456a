package audit

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"

	"github.com/sentryagent/agentidp/pkg/auditlog"
)

// Keygen makes the key of an audit log whose origin is the one argument. AUDIT_LOG_KEY goes to secret and nothing else does, so
// that a script can keep it; the public half goes to people.
func Keygen(secret, people io.Writer, args []string) error {
	if len(args) != 1 {
		return errors.New("keygen needs the log's origin, as in idp.example.com/audit")
	}
	key, public, err := auditlog.GenerateKey(rand.Reader, args[0])
	if err != nil {
		return fmt.Errorf("keygen: %w", err)
	}
	if _, err := fmt.Fprintln(secret, key); err != nil {
		return err
	}
	_, err = fmt.Fprintln(people, "The log's public key, for everyone who checks it:", public)
	return err
}
