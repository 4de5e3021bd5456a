package rig

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

// service is one replica of one of the four.
type service struct {
	*child

	public, internal string // host:port
	bin              string // directory of its program; "" is the rig's own
}

// enlist gives a replica its addresses.
func (r *Rig) enlist(ctx context.Context, name string) (err error) {
	s := &service{}
	if s.public, err = r.freeAddress(ctx); err != nil {
		return err
	}
	if s.internal, err = r.freeAddress(ctx); err != nil {
		return err
	}
	r.services[name] = s
	r.made[Program(name)]++
	return nil
}

func (r *Rig) migrate(ctx context.Context) error {
	for _, name := range r.names {
		if err := r.enlist(ctx, name); err != nil {
			return err
		}
	}
	for _, name := range Services() {
		if err := r.Migrate(ctx, name, r.bin); err != nil {
			return err
		}
	}
	return nil
}

// Migrate runs `<service> migrate` with the program in a directory.
func (r *Rig) Migrate(ctx context.Context, service, bin string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(bin, service), "migrate") // #nosec G204 -- built by us
	cmd.Env = r.settings(service, nil)
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s migrate: %w\n%s", service, err, output)
	}
	return nil
}

func (r *Rig) startServices(ctx context.Context) error {
	for _, name := range r.Instances() {
		if _, err := r.StartService(ctx, name, nil); err != nil {
			return err
		}
		if r.proxy == nil {
			continue
		}
		if err := r.Admit(name); err != nil {
			return err
		}
	}
	return nil
}

// Add starts one more replica of each of these services, all at once, and answers their names once all are ready. Nobody
// is sent to them yet.
func (r *Rig) Add(ctx context.Context, services ...string) ([]string, error) {
	names, err := r.enlistMore(ctx, services)
	if err != nil {
		return nil, err
	}
	var group errgroup.Group
	for _, name := range names {
		group.Go(func() error {
			_, err := r.StartService(ctx, name, nil)
			return err
		})
	}
	return names, group.Wait()
}

// enlistMore gives one more replica of each of these services a name that none before it had, and its addresses.
func (r *Rig) enlistMore(ctx context.Context, services []string) ([]string, error) {
	names := make([]string, len(services))
	for i, service := range services {
		names[i] = numbered(service, r.made[service]+1)
		if err := r.enlist(ctx, names[i]); err != nil {
			return nil, err
		}
	}
	r.names = append(r.names, names...)
	return names, nil
}

// Forget a replica that was ended; its log stays.
func (r *Rig) Forget(name string) {
	delete(r.services, name)
	r.names = slices.DeleteFunc(r.names, func(n string) bool { return n == name })
}

// StartService starts one and answers how long it took from the start of the process until it was ready.
func (r *Rig) StartService(ctx context.Context, name string, extra map[string]string) (time.Duration, error) {
	begin := time.Now()
	if err := r.launch(name, extra); err != nil {
		return 0, err
	}
	s := r.services[name]
	err := r.until(ctx, s.child, func() error { return r.ready(ctx, name) })
	return time.Since(begin), err
}

// launch starts a service and waits for nothing.
func (r *Rig) launch(name string, extra map[string]string) (err error) {
	bin := r.bin
	if other := r.services[name].bin; other != "" {
		bin = other
	}
	cmd := exec.Command(filepath.Join(bin, Program(name)), "serve") //nolint:gosec,noctx // built by us; outlives ctx
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

// Build makes the programs of another source tree, for Replace.
func Build(ctx context.Context, root, into string) error { return build(ctx, root, into) }

// Replace ends a service and starts the program of the same name in another directory in its place, with the same settings.
func (r *Rig) Replace(ctx context.Context, name, bin string) error {
	if err := r.StopService(name); err != nil {
		return err
	}
	r.services[name].bin = bin
	_, err := r.StartService(ctx, name, nil)
	return err
}

// OwnerURL is that of the role that owns the schema of a service.
func (r *Rig) OwnerURL(service string) string {
	return r.postgres.URL(service+"_owner", r.password, databaseName)
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
