//go:build !linux

package devservers

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// account is the user a server program runs as: here always the user of this program, as other
// systems have no capabilities to hand down.
type account struct{ other bool }

func postgresAccount() (account, error) {
	if os.Geteuid() == 0 {
		return account{}, errors.New("postgres does not run as root; run this as another user")
	}
	return account{}, nil
}

// attributes makes a child in a process group of its own. There is no parent-death signal here: a
// server that a killed run left is stopped by the next run on the same data directory.
func (account) attributes(syscall.Signal, []uintptr) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}

func (account) place(dir string) (usable string, caps []uintptr, err error) { return dir, nil, nil }

func (account) own(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make %s: %w", dir, err)
	}
	return nil
}

func (account) give(*os.File) error { return nil }
