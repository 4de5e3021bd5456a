package quota

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

const flooding, quiet = "192.0.2.1", "192.0.2.2"

// entry is an attempt that was made, once its turn has come or it was sent away.
type entry struct {
	took    time.Duration
	limited time.Duration
	err     error
}

// enter makes as many attempts at the same time.
func enter(ctx context.Context, l *Lane, place string, attempts int) <-chan entry {
	entries := make(chan entry, attempts)
	for range attempts {
		go func() {
			began := time.Now()
			limited, err := l.Enter(ctx, place)
			entries <- entry{time.Since(began), limited, err}
		}()
	}
	synctest.Wait()
	return entries
}

// exhaust has so many attempts fail that all have to take the lane.
func exhaust(l *Lane) {
	for i := 0; l.budget.TokensAt(time.Now()) >= 1; i++ {
		l.Failed(fmt.Sprintf("198.51.100.%d", i), 0)
	}
	l.budget.SetLimitAt(time.Now(), 0) // and go on failing
}

func TestAttemptsWaitForEachOtherFromAnAddressPastItsLimit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := NewLane(20, time.Now)
		l.Failed(flooding, 0)
		require.Equal(t, entry{}, <-enter(t.Context(), l, flooding, 1), "a failure is no flood")

		l.Failed(flooding, 30*time.Second)
		entries := enter(t.Context(), l, flooding, 100)
		require.Equal(t, entry{}, <-enter(t.Context(), l, quiet, 1), "other addresses do not wait")
		for i := range 100 {
			got := <-entries
			require.NoError(t, got.err)
			require.Equal(t, 30*time.Second, got.limited)
			require.InDelta(t, laneDelay+time.Duration(i)*laneInterval, got.took, float64(laneInterval))
		}
		time.Sleep(30 * time.Second) //nolint:forbidigo // of the bubble's clock
		require.Equal(t, entry{}, <-enter(t.Context(), l, flooding, 1))
	})
}

func TestNoMoreWaitThanCanBeLookedIntoInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := NewLane(20, time.Now)
		l.Failed(flooding, time.Minute)
		const more = 30
		entries := enter(t.Context(), l, flooding, laneRoom+more)
		full := 0
		for range laneRoom + more {
			got := <-entries
			require.Equal(t, time.Minute, got.limited)
			require.LessOrEqual(t, got.took, laneWait)
			if got.err != nil {
				require.ErrorIs(t, got.err, errLaneFull)
				require.Equal(t, laneDelay, got.took, "nor is it answered at once")
				full++
			}
		}
		require.Equal(t, more, full)
		got := <-enter(t.Context(), l, flooding, 1)
		require.NoError(t, got.err)
		require.Equal(t, laneDelay, got.took, "who was turned away took nobody's turn")
	})
}

func TestWhoGoesAwayWhileItWaitsLeavesItsTurnToOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := NewLane(20, time.Now)
		l.Failed(flooding, time.Minute)
		ctx, cancel := context.WithCancel(t.Context())
		entries := enter(ctx, l, flooding, laneRoom)
		time.Sleep(laneDelay + laneInterval/2) //nolint:forbidigo // so that they wait for their turns
		stayed := enter(t.Context(), l, flooding, 2)
		cancel()
		gone := 0
		for range laneRoom {
			if got := <-entries; got.err != nil {
				require.ErrorIs(t, got.err, context.Canceled)
				gone++
			}
		}
		require.GreaterOrEqual(t, gone, laneRoom-2)
		for range 2 {
			got := <-stayed
			require.NoError(t, got.err)
			require.LessOrEqual(t, got.took, laneDelay+laneInterval)
		}
		require.Zero(t, l.limited.waiting)
		require.Empty(t, l.limited.from)
	})
}

func TestAFloodFromEverywhereQueuesToo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := NewLane(1, time.Now)
		for i := range perAddress * lanePerReplica {
			require.Equal(t, entry{}, <-enter(t.Context(), l, quiet, 1))
			l.Failed(fmt.Sprintf("198.51.100.%d", i), 0)
		}
		require.Equal(t, entry{took: laneDelay}, <-enter(t.Context(), l, quiet, 1), "its failures are counted and recorded")
		time.Sleep(time.Minute / (perAddress * lanePerReplica)) //nolint:forbidigo // of the bubble's clock
		require.Equal(t, entry{}, <-enter(t.Context(), l, quiet, 1))
	})
}

func TestAddressesPastTheirLimitHoldUpNobodyElse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := NewLane(20, time.Now)
		exhaust(l)
		l.Failed(flooding, time.Minute)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		entries := enter(ctx, l, flooding, 2*laneRoom)
		require.Equal(t, entry{took: laneDelay}, <-enter(t.Context(), l, quiet, 1), "though it takes the lane too")
		cancel()
		for range 2 * laneRoom {
			<-entries
		}
	})
}

func TestNoAddressWithinItsLimitTakesMoreThanItsShareOfTheLane(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := NewLane(20, time.Now)
		exhaust(l)
		entries := enter(t.Context(), l, flooding, laneRoom)
		got := <-enter(t.Context(), l, quiet, 1)
		require.NoError(t, got.err)
		require.LessOrEqual(t, got.took, laneDelay+laneShare*laneInterval)
		turned := 0
		for range laneRoom {
			if got := <-entries; got.err != nil {
				require.ErrorIs(t, got.err, errLaneFull)
				turned++
			}
		}
		require.Equal(t, laneRoom-laneShare, turned)
	})
}

func TestWaitingInTheLaneEndsWithTheContext(t *testing.T) {
	t.Parallel()
	l := NewLane(20, time.Now)
	l.Failed(flooding, time.Minute)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := l.Enter(ctx, flooding)
	require.ErrorIs(t, err, context.Canceled)
}
