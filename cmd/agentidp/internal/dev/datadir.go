package dev

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

const (
	lockName      = "dev.lock"
	ephemeralName = "ephemeral"
)

// dataDir is the directory that holds everything one `agentidp dev` keeps. While it is open, no other
// process can open it.
type dataDir struct {
	path      string // absolute
	ephemeral bool
	lock      *os.File
	elsewhere string // holds data that could not be kept in path; "" if there is none
}

// errInUse says that another `agentidp dev` runs on the same directory.
var errInUse = errors.New("the data directory is in use")

// openDataDir makes and locks the directory. With ephemeral and an empty path it makes a temporary one;
// an ephemeral directory with a path must be empty or left by an earlier ephemeral run, since it is
// removed at the end.
func openDataDir(path string, ephemeral bool) (*dataDir, error) {
	if ephemeral && path == "" {
		temporary, err := os.MkdirTemp("", "agentidp-dev-")
		if err != nil {
			return nil, fmt.Errorf("make a temporary data directory: %w", err)
		}
		path = temporary
	}
	absolute, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("data directory %q: %w", path, err)
	}
	if err := os.MkdirAll(absolute, 0o700); err != nil {
		return nil, fmt.Errorf("make the data directory: %w", err)
	}
	if ephemeral {
		if err := checkDisposable(absolute); err != nil {
			return nil, err
		}
	}
	dir := &dataDir{path: absolute, ephemeral: ephemeral}
	if err := dir.acquire(); err != nil {
		return nil, err
	}
	if err := dir.prepare(); err != nil {
		return nil, errors.Join(err, dir.close())
	}
	return dir, nil
}

// checkDisposable refuses to take somebody's files for scratch space.
func checkDisposable(path string) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return fmt.Errorf("read the data directory: %w", err)
	}
	if len(entries) == 0 {
		return nil
	}
	if _, err := os.Stat(filepath.Join(path, ephemeralName)); err == nil {
		return nil
	}
	return fmt.Errorf("%s holds files that --ephemeral would remove at the end; give another --data-dir, or none", path)
}

// acquire takes the lock, which the kernel gives back when the process ends in whatever way.
func (d *dataDir) acquire() error {
	file, err := os.OpenFile(d.join(lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("open the lock of the data directory: %w", err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder, _ := os.ReadFile(file.Name())
		_ = file.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return fmt.Errorf("%w: another `agentidp dev` (pid %s) runs on %s; stop it first, or give another --data-dir",
				errInUse, strings.TrimSpace(string(holder)), d.path)
		}
		return fmt.Errorf("lock the data directory: %w", err)
	}
	d.lock = file
	if err := file.Truncate(0); err != nil {
		return errors.Join(fmt.Errorf("write the lock of the data directory: %w", err), file.Close())
	}
	if _, err := fmt.Fprintf(file, "%d\n", os.Getpid()); err != nil {
		return errors.Join(fmt.Errorf("write the lock of the data directory: %w", err), file.Close())
	}
	return nil
}

// prepare removes what an earlier run left for scripts to read, so that nobody takes it for this run's.
func (d *dataDir) prepare() error {
	for _, name := range []string{operatorFileName, servicesFileName, filepath.Join("secrets", keySettingsName)} {
		if err := os.Remove(d.join(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove a stale file: %w", err)
		}
	}
	if d.ephemeral {
		if err := d.removeAll(lockName); err != nil {
			return err
		}
		if err := os.WriteFile(d.join(ephemeralName), nil, 0o600); err != nil {
			return fmt.Errorf("mark the data directory: %w", err)
		}
	} else if _, err := os.Stat(d.join(ephemeralName)); err == nil {
		return fmt.Errorf("%s was made by --ephemeral and is thrown away with its content; give another --data-dir", d.path)
	}
	for _, name := range []string{"secrets", "logs"} {
		if err := os.MkdirAll(d.join(name), 0o700); err != nil {
			return fmt.Errorf("make the data directory: %w", err)
		}
	}
	return nil
}

// removeAll empties the directory but for one name.
func (d *dataDir) removeAll(but string) error {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return fmt.Errorf("read the data directory: %w", err)
	}
	for _, entry := range entries {
		if entry.Name() == but {
			continue
		}
		if err := os.RemoveAll(d.join(entry.Name())); err != nil {
			return fmt.Errorf("empty the data directory: %w", err)
		}
	}
	return nil
}

// close gives the lock back; an ephemeral directory is removed with all that is in it.
func (d *dataDir) close() error {
	var removed error
	if d.ephemeral {
		removed = os.RemoveAll(d.path)
		if d.elsewhere != "" {
			removed = errors.Join(removed, os.RemoveAll(d.elsewhere))
		}
	}
	return errors.Join(removed, d.lock.Close())
}

// alsoRemove names a directory outside that goes with an ephemeral one.
func (d *dataDir) alsoRemove(path string) { d.elsewhere = path }

func (d *dataDir) join(parts ...string) string {
	return filepath.Join(append([]string{d.path}, parts...)...)
}
