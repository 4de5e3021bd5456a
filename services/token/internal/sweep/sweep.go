// Package sweep forgets what has expired, in the background. It must not decide what has: that is a time in each row,
// and nothing may depend on a row's being gone.
package sweep

import (
	"context"
	"log/slog"
	"time"
)

const (
	every = time.Minute
	// patience bounds one sweep.
	patience = 30 * time.Second
	// batch bounds one statement.
	batch = 1000
)

// Store holds what expires.
type Store interface {
	// Purge deletes at most so many that expired before then; none while another replica is at it.
	Purge(ctx context.Context, expired time.Time, limit int) (deleted int64, err error)
}

// Sweeper forgets what expired in one store, once a minute. Every replica may have one.
type Sweeper struct {
	Store Store
	// What it forgets, for the log.
	What string
	// After is how long after it expired.
	After time.Duration
	Clock func() time.Time
	Log   *slog.Logger
}

// Run sweeps until ctx is done, and returns nil.
func (s *Sweeper) Run(ctx context.Context) error {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			if err := s.sweep(ctx); err != nil && ctx.Err() == nil {
				s.Log.InfoContext(ctx, "what has expired waits to be forgotten", slog.String("what", s.What), slog.Any("error", err))
			}
		}
	}
}

// sweep deletes in statements that each lock little, until little is left or its time is up.
func (s *Sweeper) sweep(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		deleted, err := s.Store.Purge(ctx, s.Clock().Add(-s.After), batch)
		if err != nil || deleted < batch {
			return err
		}
	}
}
