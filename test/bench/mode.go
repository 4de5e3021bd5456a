package main

import (
	"context"
	"maps"

	"github.com/sentryagent/agentidp/test/internal/rig"
)

// mode is how the token service runs; what -only leaves out must not change what comes after it.
type mode struct {
	algorithm string
	settings  map[string]string // beyond the usual ones
}

// serve has the token service run by an algorithm and settings, restarting it only when it does not.
func (b *bench) serve(ctx context.Context, algorithm string, settings map[string]string) error {
	var err error
	switch {
	case b.mode.algorithm != algorithm:
		err = b.rig.SignWith(ctx, algorithm, settings)
	case !maps.Equal(b.mode.settings, settings):
		err = b.rig.Restart(ctx, "token", withAlgorithm(algorithm, settings))
	default:
		return nil
	}
	b.after = nil
	b.mode.algorithm, b.mode.settings = algorithm, settings
	return err
}

func withAlgorithm(algorithm string, settings map[string]string) map[string]string {
	all := map[string]string{"SIGNING_ALG": algorithm}
	maps.Copy(all, settings)
	return all
}

// serveLimited has token service and registry count rates and quotas, with limits that nobody reaches; the func takes
// that back for the registry.
func (b *bench) serveLimited(ctx context.Context) (undo func() error, err error) {
	if err := b.serve(ctx, "RS256", rig.LimitsOn()); err != nil {
		return nil, err
	}
	if err := b.rig.Restart(ctx, "registry", rig.LimitsOn()); err != nil {
		return nil, err
	}
	return func() error { return b.rig.Restart(ctx, "registry", nil) }, nil
}
