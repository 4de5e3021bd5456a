package dev

import (
	"context"
	"fmt"

	"github.com/sentryagent/agentidp/pkg/config"
)

// runnable is the face that every service shows.
type runnable interface {
	// Listen opens both listeners.
	Listen() error
	// Run serves until ctx is done and returns nil after it has drained.
	Run(ctx context.Context) error
}

// program is one service as dev sees it.
type program struct {
	name string
	// check loads the settings and starts nothing.
	check func(opts ...config.Option) error
	// build makes the service; it does not listen yet.
	build func(ctx context.Context, opts ...config.Option) (runnable, error)
}

// define ties a service's LoadConfig and New together.
func define[C any, S runnable](
	name string, load func(...config.Option) (C, error), build func(context.Context, C) (S, error),
) program {
	return program{
		name: name,
		check: func(opts ...config.Option) error {
			_, err := load(opts...)
			return err
		},
		build: func(ctx context.Context, opts ...config.Option) (runnable, error) {
			cfg, err := load(opts...)
			if err != nil {
				return nil, err
			}
			service, err := build(ctx, cfg)
			if err != nil {
				return nil, fmt.Errorf("build %s: %w", name, err)
			}
			return service, nil
		},
	}
}
