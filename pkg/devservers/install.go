package devservers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const (
	// invoke-rc.d(8) asks this program whether a package may start or restart its service; 101 says no.
	policyPath   = "/usr/sbin/policy-rc.d"
	policyScript = "#!/bin/sh\n# Made by agentidp while it installs packages, and removed afterwards.\nexit 101\n"
	// postgresql-common reads this folder when it is about to make a cluster for a fresh postgres.
	dropInDir  = "/etc/postgresql-common/createcluster.d"
	dropInName = "agentidp.conf"
	dropIn     = "# Made by agentidp while it installs packages, and removed afterwards.\ncreate_main_cluster = false\n"
)

// Missing lists the Debian packages with the server programs that `agentidp dev` needs and this machine does not have.
func Missing() []string {
	var packages []string
	if len(postgresFolders()) == 0 {
		packages = append(packages, "postgresql")
	}
	if _, err := findRedis(); err != nil {
		packages = append(packages, "redis-server")
	}
	return packages
}

// MissingForTests is Missing, the reverse proxy behind which the tests roll the services, and the C compiler that go needs for
// the race detector.
func MissingForTests() []string {
	packages := Missing()
	if _, err := FindHAProxy(); err != nil {
		packages = append(packages, "haproxy")
	}
	if !hasCompiler() {
		// Debian's gcc only recommends the headers, and what is recommended is not installed.
		packages = append(packages, "gcc", "libc6-dev")
	}
	return packages
}

// hasCompiler tells whether there is the C compiler that go uses.
func hasCompiler() bool {
	program := "gcc"
	if words := strings.Fields(os.Getenv("CC")); len(words) > 0 {
		program = words[0] // options may follow
	}
	_, err := exec.LookPath(program)
	return err == nil
}

// FindHAProxy is the path of the program; ErrNotFound when it is not installed.
func FindHAProxy() (string, error) {
	// Debian keeps it where the PATH of an ordinary user does not look.
	for _, candidate := range []string{"haproxy", "/usr/sbin/haproxy", "/usr/local/sbin/haproxy", "/opt/homebrew/bin/haproxy"} {
		if path, err := exec.LookPath(candidate); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("haproxy: %w", ErrNotFound)
}

// Install installs packages with apt-get, as root on Debian and its kin; elsewhere it returns an
// error that names the packages and the command. It says what it does on log before it does it.
//
// No server is started or restarted by it, and none that runs is touched: while it works, a
// policy-rc.d forbids that to the packages, and a drop-in keeps postgresql from making a cluster.
// Both are removed afterwards; a policy-rc.d or drop-in that is there already is left as it is.
// Packages that are installed are not upgraded.
func Install(ctx context.Context, log io.Writer, packages []string) error {
	return installer{root: "/", euid: os.Geteuid(), log: log}.install(ctx, packages)
}

type installer struct {
	root string // the system's root folder; another one in tests
	euid int
	log  io.Writer
}

func (i installer) install(ctx context.Context, packages []string) error {
	if len(packages) == 0 {
		return nil
	}
	names := strings.Join(packages, " ")
	apt, err := exec.LookPath("apt-get")
	if err != nil || !i.isDebian() {
		return fmt.Errorf("these programs are needed: %s; install them with the package manager of this system", names)
	}
	if i.euid != 0 {
		return fmt.Errorf("these packages are needed: %s; install them with: sudo apt-get install %s", names, names)
	}
	i.say("These Debian packages are missing and will be installed now: %s\n", names)
	i.say("  1. apt-get update, then apt-get install --no-upgrade --no-install-recommends %s\n", names)
	undo, err := i.holdServers()
	defer undo()
	if err != nil {
		return err
	}
	for _, args := range [][]string{
		{"update", "-q"},
		append([]string{"install", "-q", "-y", "--no-upgrade", "--no-install-recommends"}, packages...),
	} {
		if err := i.run(ctx, apt, args); err != nil {
			return err
		}
	}
	i.say("Installed. These servers start with the machine at its next boot; systemctl disable says otherwise.\n")
	return nil
}

func (i installer) isDebian() bool {
	_, err := os.Stat(filepath.Join(i.root, "etc/debian_version"))
	return err == nil
}

// holdServers keeps the packages from starting anything; undo takes back what it did, and may be
// called whatever the error is.
func (i installer) holdServers() (undo func(), err error) {
	var made []string
	undo = func() {
		for n := len(made) - 1; n >= 0; n-- {
			_ = os.Remove(made[n])
		}
	}
	policy := filepath.Join(i.root, policyPath)
	switch err := writeNew(policy, policyScript, 0o755); {
	case err == nil:
		made = append(made, policy)
		i.say("  2. %s is put there for that time, so that no server is started or restarted\n", policyPath)
	case errors.Is(err, os.ErrExist):
		i.say("  2. %s is there already and decides whether packages may start servers\n", policyPath)
	default:
		return undo, fmt.Errorf("keep packages from starting servers: %w", err)
	}
	for _, folder := range missingFolders(filepath.Join(i.root, dropInDir)) {
		if err := os.Mkdir(folder, 0o755); err != nil { // #nosec G301 -- as the package makes it
			return undo, fmt.Errorf("keep postgresql from making a cluster: %w", err)
		}
		made = append(made, folder) // goes again only if the package put nothing into it
	}
	file := filepath.Join(i.root, dropInDir, dropInName)
	switch err := writeNew(file, dropIn, 0o644); {
	case err == nil:
		made = append(made, file)
		i.say("  3. %s is put there for that time, so that postgresql makes no cluster of its own\n", filepath.Join(dropInDir, dropInName))
	case !errors.Is(err, os.ErrExist):
		return undo, fmt.Errorf("keep postgresql from making a cluster: %w", err)
	}
	return undo, nil
}

func (i installer) run(ctx context.Context, apt string, args []string) error {
	cmd := exec.CommandContext(ctx, apt, args...) // #nosec G204 -- apt-get with packages that Missing names
	// needrestart, where it is installed, would restart services whose libraries changed.
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "NEEDRESTART_SUSPEND=1")
	cmd.Stdout, cmd.Stderr = i.log, i.log
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("apt-get %s: %w", args[0], err)
	}
	return nil
}

func (i installer) say(format string, args ...any) {
	if i.log != nil {
		_, _ = fmt.Fprintf(i.log, format, args...)
	}
}

// writeNew makes a file, or fails with os.ErrExist. One with that very content is taken for the
// file of an earlier run that was killed.
func writeNew(name, content string, mode os.FileMode) error {
	if there, err := os.ReadFile(name); err == nil && string(there) == content { // #nosec G304 -- fixed names
		return nil
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode) // #nosec G304 -- fixed names
	if err != nil {
		return err
	}
	_, errWrite := f.WriteString(content)
	return errors.Join(errWrite, f.Close())
}

// missingFolders are the folders on the way to path that are not there, the outermost first.
func missingFolders(path string) []string {
	var missing []string
	for ; ; path = filepath.Dir(path) {
		if _, err := os.Stat(path); err == nil || path == filepath.Dir(path) {
			return missing
		}
		missing = append([]string{path}, missing...)
	}
}
