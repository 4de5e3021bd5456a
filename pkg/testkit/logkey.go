package testkit

import (
	"crypto/rand"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sentryagent/agentidp/pkg/auditlog"
)

// LogOrigin is the origin of the audit logs of tests.
const LogOrigin = "audit.test"

// LogKey is a key of an audit log.
type LogKey struct {
	Secret   string // AUDIT_LOG_KEY
	Public   string
	Signer   note.Signer
	Verifier note.Verifier
}

// AuditLogKey makes a key for an audit log of the test's own.
func AuditLogKey(tb testing.TB) LogKey {
	tb.Helper()
	secret, public, err := auditlog.GenerateKey(rand.Reader, LogOrigin)
	if err != nil {
		tb.Fatalf("make a log key: %v", err)
	}
	key := LogKey{Secret: secret, Public: public}
	if key.Signer, err = note.NewSigner(secret); err != nil {
		tb.Fatalf("read a log key: %v", err)
	}
	if key.Verifier, err = note.NewVerifier(public); err != nil {
		tb.Fatalf("read a log key: %v", err)
	}
	return key
}

// StoredHashes are the hashes of a tree in memory, as tlog numbers them.
type StoredHashes []tlog.Hash

// ReadHashes implements tlog.HashReader.
func (s StoredHashes) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		hashes[i] = s[index]
	}
	return hashes, nil
}
