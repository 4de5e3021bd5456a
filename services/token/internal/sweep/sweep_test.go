package sweep_test

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/services/token/internal/sweep"
)

// store has so many expired rows.
type store struct {
	rows, calls atomic.Int64
	before      atomic.Int64
	err         error
}

func (s *store) Purge(_ context.Context, expired time.Time, limit int) (int64, error) {
	s.calls.Add(1)
	s.before.Store(expired.Unix())
	deleted := min(s.rows.Load(), int64(limit))
	s.rows.Add(-deleted)
	return deleted, s.err
}

func run(t *testing.T, swept *store) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	sweeper := &sweep.Sweeper{Store: swept, After: 10 * time.Minute, Clock: time.Now, Log: slog.New(slog.DiscardHandler)}
	go func() { done <- sweeper.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
}

func TestWhatHasExpiredIsForgottenInPortions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		swept := &store{}
		swept.rows.Store(2500)
		run(t, swept)
		<-time.After(61 * time.Second)
		require.Zero(t, swept.rows.Load())
		require.EqualValues(t, 3, swept.calls.Load())
		require.Equal(t, time.Now().Add(-time.Second-10*time.Minute).Unix(), swept.before.Load())
	})
}

func TestASweepThatFailsIsTriedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		swept := &store{err: errors.New("away")}
		swept.rows.Store(2500)
		run(t, swept)
		<-time.After(121 * time.Second)
		require.EqualValues(t, 2, swept.calls.Load(), "once a minute, not in a loop")
	})
}
