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

	"github.com/sentryagent/agentidp/pkg/idle"
	"github.com/sentryagent/agentidp/pkg/sweep"
)

// store has so many expired rows.
type store struct {
	rows, calls atomic.Int64
	asked       atomic.Int64
	takes       time.Duration
	err         error
}

func (s *store) Purge(ctx context.Context, now time.Time, limit int) (int64, error) {
	s.calls.Add(1)
	s.asked.Store(now.Unix())
	if err := idle.For(ctx, s.takes); err != nil {
		return 0, err
	}
	deleted := min(s.rows.Load(), int64(limit))
	s.rows.Add(-deleted)
	return deleted, s.err
}

func run(t *testing.T, swept *store) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	sweeper := &sweep.Sweeper{Purge: swept.Purge, Clock: time.Now, Log: slog.New(slog.DiscardHandler)}
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
		require.Equal(t, time.Now().Add(-time.Second).Unix(), swept.asked.Load())
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

func TestASweepIsBoundedInTime(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		takes time.Duration
		calls int64
	}{
		"with more portions than there is time for": {takes: 4 * time.Second, calls: 8},
		"within a portion":                          {takes: time.Hour, calls: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				swept := &store{takes: test.takes}
				swept.rows.Store(1_000_000)
				run(t, swept)
				<-time.After(119 * time.Second)
				require.Equal(t, test.calls, swept.calls.Load())
				<-time.After(60 * time.Second)
				require.Equal(t, 2*test.calls, swept.calls.Load(), "the next sweep goes on")
			})
		})
	}
}
