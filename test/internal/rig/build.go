package rig

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

const (
	module      = "github.com/sentryagent/agentidp"
	natsPackage = "github.com/nats-io/nats-server/v2"
)

// Services in the order they are started: the others fetch the token service's signing keys.
func Services() []string { return []string{"token", "registry", "credentials", "audit"} }

// build makes the programs from this tree, as an image build does.
func build(ctx context.Context, root, into string) error {
	packages := append(make([]string, 0, 1+len(Services())), natsPackage)
	for _, service := range Services() {
		packages = append(packages, module+"/services/"+service+"/cmd/"+service)
	}
	for _, pkg := range packages {
		name := filepath.Base(pkg)
		if pkg == natsPackage {
			name = "nats-server"
		}
		if _, err := os.Stat(filepath.Join(into, name)); err == nil {
			continue // by an earlier rig
		}
		cmd := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(into, name), pkg) // #nosec G204 -- fixed packages
		cmd.Dir = root
		if output, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", pkg, err, output)
		}
	}
	return nil
}

// FindRoot is the directory of the workspace: the nearest above the working directory with a go.work.
func FindRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("run this inside of the source tree: no go.work here or above")
		}
		dir = parent
	}
}
