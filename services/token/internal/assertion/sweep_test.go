package assertion_test

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/services/token/internal/assertion"
)

// used is a store with so many expired rows.
type used struct {
	rows, calls atomic.Int64
	before      atomic.Int64
	err         error
}

func (u *used) Purge(_ context.Context, expired time.Time, limit int) (int64, error) {
	u.calls.Add(1)
	u.before.Store(expired.Unix())
	deleted := min(u.rows.Load(), int64(limit))
	u.rows.Add(-deleted)
	return deleted, u.err
}

func TestUsedAssertionsAreForgottenInPortionsOnceTheyCannotComeBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := &used{}
		store.rows.Store(2500)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- assertion.NewSweeper(store, time.Now, slog.New(slog.DiscardHandler)).Run(ctx)
		}()
		<-time.After(61 * time.Second)
		require.Zero(t, store.rows.Load())
		require.EqualValues(t, 3, store.calls.Load())
		require.Less(t, store.before.Load(), time.Now().Add(-5*time.Minute).Unix())
		cancel()
		require.NoError(t, <-done)
	})
}

func TestASweepThatFailsIsTriedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := &used{err: errors.New("away")}
		store.rows.Store(2500)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- assertion.NewSweeper(store, time.Now, slog.New(slog.DiscardHandler)).Run(ctx)
		}()
		<-time.After(121 * time.Second)
		require.EqualValues(t, 2, store.calls.Load(), "once a minute, not in a loop")
		cancel()
		require.NoError(t, <-done)
	})
}
