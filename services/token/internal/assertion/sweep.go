package assertion

import (
	"context"
	"log/slog"
	"time"
)

const (
	sweepEvery = time.Minute
	sweepWait  = 30 * time.Second
	// sweepAfter is how long after its exp a used assertion is forgotten: longer than
	// the clocks of replicas differ and exp has leeway, so that none comes back.
	sweepAfter = 10 * time.Minute
	// sweepBatch bounds one statement.
	sweepBatch = 1000
)

// Store remembers used assertions.
type Store interface {
	// Purge deletes at most so many that expired before then.
	Purge(ctx context.Context, expired time.Time, limit int) (deleted int64, err error)
}

// Sweeper forgets used assertions that have expired.
type Sweeper struct {
	store Store
	clock func() time.Time
	log   *slog.Logger
}

// NewSweeper makes a Sweeper; Run sweeps.
func NewSweeper(store Store, clock func() time.Time, log *slog.Logger) *Sweeper {
	return &Sweeper{store: store, clock: clock, log: log}
}

// Run sweeps once a minute until ctx is done. Every replica may do it.
func (s *Sweeper) Run(ctx context.Context) error {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			if err := s.sweep(ctx); err != nil {
				s.log.InfoContext(ctx, "used assertions wait to be forgotten", slog.Any("error", err))
			}
		}
	}
}

// sweep deletes in statements that each lock little, until little is left or its time is up.
func (s *Sweeper) sweep(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, sweepWait)
	defer cancel()
	for {
		deleted, err := s.store.Purge(ctx, s.clock().Add(-sweepAfter), sweepBatch)
		if err != nil || deleted < sweepBatch {
			return err
		}
	}
}
