package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// EnvFile is a Store in a file that a shell can source and Docker can read as an env file. Only its owner may read it.
type EnvFile string

var _ Store = EnvFile("")

// String is the file's path.
func (f EnvFile) String() string { return string(f) }

// Exists says whether the file is there. It also fails where no file can be made.
func (f EnvFile) Exists(context.Context) (bool, error) {
	switch _, err := os.Stat(string(f)); {
	case err == nil:
		return true, nil
	case !errors.Is(err, fs.ErrNotExist):
		return false, fmt.Errorf("look for %s: %w", f, err)
	}
	trial, err := f.temporary()
	if err != nil {
		return false, err
	}
	return false, errors.Join(trial.Close(), os.Remove(trial.Name()))
}

// Save writes the file.
func (f EnvFile) Save(_ context.Context, handover Handover) error {
	var text strings.Builder
	for _, v := range handover.Variables() {
		fmt.Fprintf(&text, "%s='%s'\n", v[0], strings.ReplaceAll(v[1], "'", `'\''`))
	}
	file, err := f.temporary()
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(file.Name()) }()
	_, err = file.WriteString(text.String())
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("write %s: %w", f, err)
	}
	// A link, unlike a rename, never replaces what another run has written.
	if err := os.Link(file.Name(), string(f)); errors.Is(err, fs.ErrExist) {
		return errKept
	} else if err != nil {
		return fmt.Errorf("write %s: %w", f, err)
	}
	return nil
}

// temporary makes a file beside the one that is wanted, which only its owner may read.
func (f EnvFile) temporary() (*os.File, error) {
	file, err := os.CreateTemp(filepath.Dir(string(f)), "."+filepath.Base(string(f))+".*")
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", f, err)
	}
	return file, nil
}
