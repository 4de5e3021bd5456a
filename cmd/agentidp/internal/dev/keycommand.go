package dev

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sentryagent/agentidp/cmd/agentidp/internal/atomicfile"
	"github.com/sentryagent/agentidp/pkg/config"
)

// keySettingsName is the file in which a run leaves what commands about its signing keys need.
const keySettingsName = "key-settings.json"

// keySettings are the token service's settings that commands about its signing keys have too.
type keySettings struct {
	DatabaseURL   config.Secret `env:"DATABASE_URL"`
	EncryptionKey config.Secret `env:"KEY_ENCRYPTION_KEY"`
	Propagation   string        `env:"KEY_PROPAGATION"`
}

// handOverKeySettings writes them for `agentidp keys`.
func (s *session) handOverKeySettings() error {
	var used keySettings
	if err := config.Load(&used, s.layout.options("token", s.options.Environ)...); err != nil {
		return err
	}
	content, err := json.MarshalIndent(map[string]string{
		"DATABASE_URL":       used.DatabaseURL.Reveal(),
		"KEY_ENCRYPTION_KEY": used.EncryptionKey.Reveal(),
		"KEY_PROPAGATION":    used.Propagation,
	}, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", keySettingsName, err)
	}
	return atomicfile.Write(s.dir.join("secrets", keySettingsName), append(content, '\n'), 0o600)
}

// KeySettings are the settings with which commands about signing keys reach the run on a data directory.
func KeySettings(dataDir string) (map[string]string, error) {
	content, err := os.ReadFile(filepath.Join(dataDir, "secrets", keySettingsName)) //nolint:gosec // a file of our own data directory
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no `agentidp dev` runs on %s; start it, or name its --data-dir", dataDir)
	}
	if err != nil {
		return nil, fmt.Errorf("read the settings of `agentidp dev`: %w", err)
	}
	var settings map[string]string
	if err := json.Unmarshal(content, &settings); err != nil {
		return nil, fmt.Errorf("read the settings of `agentidp dev`: %s: %w", keySettingsName, err)
	}
	return settings, nil
}
