package atomicfile

import (
	"os"
	"path/filepath"
)

// MakeDir makes a directory and those above it. They are on the disk when it returns, so that what is kept in them
// cannot be gone after a power failure though it was synced itself.
func MakeDir(path string) error {
	var parents []string
	for at := filepath.Clean(path); ; at = filepath.Dir(at) {
		if _, err := os.Stat(at); err == nil || at == filepath.Dir(at) {
			break
		}
		parents = append(parents, filepath.Dir(at))
	}
	if err := os.MkdirAll(path, 0o755); err != nil { //nolint:gosec // a file says with its own mode who may read it
		return err
	}
	for _, parent := range parents {
		if err := syncDir(parent); err != nil {
			return err
		}
	}
	return nil
}
