package devservers

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Capabilities that let a process walk through directories that its user may not enter
// (capabilities(7)).
const (
	capDACOverride   = 1
	capDACReadSearch = 2
)

// account is the user a server program runs as; the zero value is the user of this program.
type account struct {
	name     string
	uid, gid int
	other    bool // not the user of this program
}

// postgresAccount is who may run Postgres, which refuses to be root: this user, or, for root, the
// user postgres, or nobody.
func postgresAccount() (account, error) {
	if os.Geteuid() != 0 {
		return account{uid: os.Geteuid(), gid: os.Getegid()}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, errU := strconv.Atoi(u.Uid)
		gid, errG := strconv.Atoi(u.Gid)
		if errors.Join(errU, errG) == nil && uid != 0 {
			return account{name: name, uid: uid, gid: gid, other: true}, nil
		}
	}
	return account{}, errors.New("postgres does not run as root, and there is neither a user postgres nor nobody")
}

// attributes makes a child that runs as the account and gets onDeath when this program ends.
// caps are kept through the change of user; they let the server reach its data directory.
func (a account) attributes(onDeath syscall.Signal, caps []uintptr) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true, Pdeathsig: onDeath}
	if a.other {
		attr.Credential = &syscall.Credential{
			Uid: uint32(a.uid), // #nosec G115 -- a user id of this machine
			Gid: uint32(a.gid), // #nosec G115 -- a group id of this machine
		}
		attr.AmbientCaps = caps
	}
	return attr
}

// place decides where the data of the account goes: dir, if the account can get there by itself or
// with one capability (which is returned); else a directory of the same purpose that it can reach.
func (a account) place(dir string) (usable string, caps []uintptr, err error) {
	if !a.other || a.reaches(filepath.Dir(dir)) {
		return dir, nil, nil
	}
	for _, c := range []uintptr{capDACReadSearch, capDACOverride} {
		if permitted(c) {
			return dir, []uintptr{c}, nil
		}
	}
	for _, tmp := range []string{os.TempDir(), "/var/tmp", "/tmp"} {
		if a.reaches(tmp) {
			return filepath.Join(tmp, fallbackName(dir)), nil, nil
		}
	}
	return "", nil, fmt.Errorf("the user %s cannot reach %s; choose a data directory below one that everybody may enter", a.name, dir)
}

// reaches says whether the account may enter dir and everything above it.
func (a account) reaches(dir string) bool {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return false
	}
	for {
		info, err := os.Stat(dir)
		if err != nil {
			return false
		}
		owner, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return false
		}
		enter := info.Mode().Perm()&0o001 != 0
		switch {
		case int(owner.Uid) == a.uid:
			enter = info.Mode().Perm()&0o100 != 0
		case int(owner.Gid) == a.gid:
			enter = info.Mode().Perm()&0o010 != 0
		}
		if !enter {
			return false
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return true
		}
		dir = parent
	}
}

// own makes dir (mode 0700) and gives it to the account; a directory of somebody else is refused.
func (a account) own(dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return fmt.Errorf("make the directory of %s: %w", dir, err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make %s: %w", dir, err)
	} else if err == nil && a.other {
		if err := os.Chown(dir, a.uid, a.gid); err != nil {
			return fmt.Errorf("give %s to %s: %w", dir, a.name, err)
		}
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("look at %s: %w", dir, err)
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || !ok || int(owner.Uid) != a.uid {
		return fmt.Errorf("%s is not a directory of the user that the server runs as (uid %d)", dir, a.uid)
	}
	return nil
}

// give hands a file to the account.
func (a account) give(f *os.File) error {
	if !a.other {
		return nil
	}
	return f.Chown(a.uid, a.gid)
}

// permitted says whether this process holds a capability and may pass it on.
func permitted(capability uintptr) bool {
	status, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		return false
	}
	for _, set := range []string{"CapPrm:", "CapBnd:"} {
		_, rest, ok := strings.Cut(string(status), set)
		if !ok {
			return false
		}
		line, _, _ := strings.Cut(rest, "\n")
		mask, err := strconv.ParseUint(strings.TrimSpace(line), 16, 64)
		if err != nil || mask&(1<<capability) == 0 {
			return false
		}
	}
	return true
}
