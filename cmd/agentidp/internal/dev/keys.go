package dev

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/sentryagent/agentidp/cmd/agentidp/internal/atomicfile"
	"github.com/sentryagent/agentidp/pkg/auditlog"
	"github.com/sentryagent/agentidp/pkg/config"
)

// keys are the secrets of one data directory, made in its first start and kept from then on.
type keys struct {
	encryption config.Secret // KEY_ENCRYPTION_KEY: 32 bytes in base64
	auditLog   config.Secret // AUDIT_LOG_KEY
	internal   config.Secret // INTERNAL_API_TOKEN
	database   config.Secret // from it every role's password is derived
	redis      config.Secret
}

const keyBytes = 32

// logOrigin is the name of the audit log of a data directory.
const logOrigin = "agentidp-dev/audit"

// loadKeys reads the secrets, making those that are not there yet. It refuses to make new ones beside a
// database that was written with others, since they could not open it.
func loadKeys(dir string, random io.Reader, databaseExists bool) (keys, error) {
	var k keys
	for _, file := range []struct {
		name     string
		into     *config.Secret
		lasting  bool
		encoding func([]byte) string
	}{
		{"key-encryption-key", &k.encryption, true, base64.StdEncoding.EncodeToString},
		{"internal-api-token", &k.internal, false, hex.EncodeToString},
		{"database-password", &k.database, true, hex.EncodeToString},
		{"redis-password", &k.redis, false, hex.EncodeToString},
		// Not lasting: a data directory of before the audit trail was a log has none.
		{"audit-log-key", &k.auditLog, false, encodeLogKey},
	} {
		path := filepath.Join(dir, file.name)
		content, err := os.ReadFile(path) //nolint:gosec // a file of our own data directory
		switch {
		case err == nil:
			value := strings.TrimSpace(string(content))
			if value == "" {
				return keys{}, fmt.Errorf("%s is empty; put the key back, or start over with another --data-dir", path)
			}
			*file.into = config.Secret(value)
			continue
		case !errors.Is(err, fs.ErrNotExist):
			return keys{}, fmt.Errorf("read a key: %w", err)
		case file.lasting && databaseExists:
			return keys{}, fmt.Errorf("%s is missing, and the database beside it cannot be opened without; "+
				"put it back, or start over with another --data-dir", path)
		}
		raw := make([]byte, keyBytes)
		if _, err := io.ReadFull(random, raw); err != nil {
			return keys{}, fmt.Errorf("make a key: %w", err)
		}
		value := file.encoding(raw)
		if err := atomicfile.Write(path, []byte(value+"\n"), 0o600); err != nil {
			return keys{}, err
		}
		*file.into = config.Secret(value)
	}
	return k, nil
}

// encodeLogKey makes the secret key of the audit log from keyBytes random bytes.
func encodeLogKey(seed []byte) string {
	secret, _, _ := auditlog.GenerateKey(bytes.NewReader(seed), logOrigin) // fails for too few bytes only
	return secret
}

// rolePassword derives the password of one database role.
func (k keys) rolePassword(role string) string {
	mac := hmac.New(sha256.New, []byte(k.database.Reveal()))
	mac.Write([]byte(role))
	return hex.EncodeToString(mac.Sum(nil))
}

// systemRandom is the CSPRNG of the operating system.
func systemRandom() io.Reader { return rand.Reader }
