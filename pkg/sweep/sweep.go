// Package sweep deletes rows that have expired, beside the requests, so that a table of what counts for a while only does not
// grow. It must not decide which have, or how long after that they are kept: a store knows that of its rows, and nothing may
// depend on a row's being gone.
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

// Purge deletes at most so many that nobody needs any more, and does not wait for another replica that is at it.
type Purge func(ctx context.Context, now time.Time, limit int) (deleted int64, err error)

// Sweeper forgets what expired in one table, once a minute. Every replica may have one.
type Sweeper struct {
	Purge Purge
	// What it forgets, for the log.
	What  string
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
		deleted, err := s.Purge(ctx, s.Clock(), batch)
		if err != nil || deleted < batch {
			return err
		}
	}
}
