// Package atomicfile writes files and makes directories that are whole at any moment and on the disk when it
// returns, also after a crash or a power cut. It must not know what is in them.
package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Write writes a file so that a reader, or a start after a crash, finds either all of it or what was there before.
func Write(path string, content []byte, mode fs.FileMode) (err error) {
	dir := filepath.Dir(path)
	file, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*") // nobody else can read it yet
	if err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(file.Name())
		}
	}()
	if _, err = file.Write(content); err == nil {
		err = errors.Join(file.Chmod(mode), file.Sync()) // in this order: the mode has to survive as well
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err = os.Rename(file.Name(), path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return syncDir(dir)
}

// syncDir makes what was made or renamed in dir survive a power cut.
func syncDir(dir string) error {
	handle, err := os.Open(dir) //nolint:gosec // of a file or directory that was just made
	if err == nil {
		err = errors.Join(handle.Sync(), handle.Close())
	}
	if err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}
