package rig

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"time"
)

// service is one replica of one of the four.
type service struct {
	*child

	public, internal string // host:port
}

func (r *Rig) migrate(ctx context.Context) error {
	for _, name := range r.Instances() {
		var ports [2]string
		for i := range ports {
			port, err := r.freePort(ctx)
			if err != nil {
				return err
			}
			ports[i] = net.JoinHostPort(loopback, port)
		}
		r.services[name] = &service{public: ports[0], internal: ports[1]}
	}
	for _, name := range Services() {
		cmd := exec.CommandContext(ctx, filepath.Join(r.bin, name), "migrate") // #nosec G204 -- built by us
		cmd.Env = r.settings(name, nil)
		if output, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s migrate: %w\n%s", name, err, output)
		}
	}
	return nil
}

func (r *Rig) startServices(ctx context.Context) error {
	for _, name := range r.Instances() {
		if _, err := r.StartService(ctx, name, nil); err != nil {
			return err
		}
	}
	return nil
}

// StartService starts one and answers how long it took from the start of the process until it was ready.
func (r *Rig) StartService(ctx context.Context, name string, extra map[string]string) (time.Duration, error) {
	begin := time.Now()
	if err := r.launch(name, extra); err != nil {
		return 0, err
	}
	s := r.services[name]
	err := r.until(ctx, s.child, func() error { return r.ready(ctx, s.internal) })
	return time.Since(begin), err
}

// launch starts a service and waits for nothing.
func (r *Rig) launch(name string, extra map[string]string) (err error) {
	cmd := exec.Command(filepath.Join(r.bin, Program(name)), "serve") //nolint:gosec,noctx // built by us; outlives ctx
	cmd.Env = r.settings(name, extra)
	r.services[name].child, err = startChild(name, filepath.Join(r.dir, name+".log"), cmd)
	return err
}

// StopService ends one as Kubernetes does, and says when it did not end well.
func (r *Rig) StopService(name string) error {
	s := r.services[name]
	if s == nil || s.child == nil {
		return nil
	}
	c := s.child
	s.child = nil
	return c.stop()
}

// Restart replaces a service by one with other settings.
func (r *Rig) Restart(ctx context.Context, name string, extra map[string]string) error {
	if err := r.StopService(name); err != nil {
		return err
	}
	_, err := r.StartService(ctx, name, extra)
	return err
}

// SignWith restarts the token service with another algorithm and no other keys than its own new one, so that it signs
// with it from the first token on.
func (r *Rig) SignWith(ctx context.Context, algorithm string, extra map[string]string) error {
	if err := r.StopService("token"); err != nil {
		return err
	}
	if _, err := r.db.Exec(ctx, "TRUNCATE token.signing_keys"); err != nil {
		return fmt.Errorf("drop the signing keys: %w", err)
	}
	settings := map[string]string{"SIGNING_ALG": algorithm}
	for name, value := range extra {
		settings[name] = value
	}
	_, err := r.StartService(ctx, "token", settings)
	return err
}

// Alive is an error when a service has ended.
func (r *Rig) Alive() error {
	var failures []error
	for name, s := range r.services {
		if s.child == nil {
			failures = append(failures, fmt.Errorf("%s does not run", name))
			continue
		}
		failures = append(failures, s.ended(), trimLog(s.log))
	}
	return errors.Join(failures...)
}
