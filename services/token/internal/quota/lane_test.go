package quota

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/ratelimit"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/services/token/internal/issue"
)

const flooding, quiet = "192.0.2.1", "192.0.2.2"

// attempt is one that was made, once it was let in or sent away.
type attempt struct {
	took  time.Duration
	entry issue.Entry // without Leave
	err   error
}

// try makes as many attempts at the same time; each fails as soon as it is let in.
func try(ctx context.Context, l *Lane, attempts int, do func(ctx context.Context) (issue.Entry, error)) <-chan attempt {
	made := make(chan attempt, attempts)
	for range attempts {
		go func() {
			began := time.Now()
			entry, err := do(ctx)
			a := attempt{time.Since(began), entry, err}
			if a.entry.Leave != nil {
				l.Failed("198.51.100.1", 0)
				entry.Leave()
				a.entry.Leave = nil
			}
			made <- a
		}()
	}
	synctest.Wait()
	return made
}

// enter is for attempts that cost little to look into.
func enter(ctx context.Context, l *Lane, place string, attempts int) <-chan attempt {
	return try(ctx, l, attempts, func(ctx context.Context) (issue.Entry, error) { return l.Enter(ctx, place) })
}

// queueUp is for those that cost much, once they have entered.
func queueUp(ctx context.Context, l *Lane, place string, attempts int) <-chan attempt {
	return try(ctx, l, attempts, func(ctx context.Context) (issue.Entry, error) { return issue.Entry{}, l.Queue(ctx, place) })
}

// exhaust has so many attempts fail that all are a crowd, and keeps it so.
func exhaust(l *Lane) {
	for i := 0; l.budget.TokensAt(time.Now()) >= 1; i++ {
		l.Failed(fmt.Sprintf("198.51.100.%d", i), 0)
	}
	l.budget.SetLimitAt(time.Now(), 0) // and go on failing
}

func TestAnAddressPastItsLimitIsSlowAndNoOther(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := NewLane(20, time.Now)
		l.Failed(flooding, 0)
		require.Equal(t, attempt{}, <-enter(t.Context(), l, flooding, 1), "a failure is no flood")

		l.Failed(flooding, 30*time.Second)
		limited := enter(t.Context(), l, flooding, 1000)
		require.Equal(t, attempt{}, <-enter(t.Context(), l, quiet, 1), "other addresses do not wait")
		for range 1000 {
			require.Equal(t, attempt{took: laneDelay, entry: issue.Entry{Crowd: true, Limited: 30 * time.Second}}, <-limited)
		}
		time.Sleep(30 * time.Second) //nolint:forbidigo // of the bubble's clock
		require.Equal(t, attempt{}, <-enter(t.Context(), l, flooding, 1))
	})
}

func TestNoCrowdGetsInBeforeTheFirstOfItHasFailed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := NewLane(20, time.Now)
		var leave []func()
		for range laneBeside {
			entry, err := l.Enter(t.Context(), quiet)
			require.NoError(t, err)
			require.False(t, entry.Crowd)
			leave = append(leave, entry.Leave)
		}
		waiting := enter(t.Context(), l, quiet, 500)
		require.Empty(t, waiting)
		require.Zero(t, l.waiting.Load())
		for _, leave := range leave {
			l.Failed(quiet, 0)
			leave()
		}
		let := 0
		for range 500 {
			a := <-waiting
			require.NoError(t, a.err)
			if !a.entry.Crowd {
				let++
			}
		}
		require.LessOrEqual(t, let, perAddress*20-laneBeside, "not one more than may fail at a time")
		require.Greater(t, let, perAddress*20-2*laneBeside)
	})
}

func TestWhoWaitsForRoomLeavesWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := NewLane(20, time.Now)
		for range laneBeside {
			_, err := l.Enter(t.Context(), quiet)
			require.NoError(t, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		waiting := enter(ctx, l, quiet, 1)
		cancel()
		require.ErrorIs(t, (<-waiting).err, context.Canceled)
	})
}

func TestAFloodFromEverywhereIsACrowd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := NewLane(1, time.Now)
		for i := range perAddress {
			require.Equal(t, attempt{}, <-enter(t.Context(), l, quiet, 1), i) // and fails
		}
		require.Equal(t, attempt{took: laneDelay, entry: issue.Entry{Crowd: true}}, <-enter(t.Context(), l, quiet, 1))
		time.Sleep(time.Minute / (perAddress * lanePerReplica)) //nolint:forbidigo // of the bubble's clock
		require.Equal(t, attempt{}, <-enter(t.Context(), l, quiet, 1))
	})
}

func TestWhatMayStillFailCountsAsFailed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := NewLane(1, time.Now)
		for range perAddress - 1 {
			l.Failed(quiet, 0)
		}
		entry, err := l.Enter(t.Context(), quiet)
		require.NoError(t, err)
		require.False(t, entry.Crowd)
		require.True(t, (<-enter(t.Context(), l, quiet, 1)).entry.Crowd, "only one more may fail, and it is under way")
		entry.Leave()
		require.False(t, (<-enter(t.Context(), l, quiet, 1)).entry.Crowd, "it was good")
	})
}

func TestACrowdIsOneWhileManyWaitAndALittleLonger(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := NewLane(20, time.Now)
		l.Failed(flooding, time.Hour)
		few := enter(t.Context(), l, flooding, crowdWaits-1)
		require.False(t, l.Crowded())
		one := enter(t.Context(), l, flooding, 1)
		require.True(t, l.Crowded())
		for range crowdWaits - 1 {
			<-few
		}
		<-one
		require.Zero(t, l.waiting.Load())
		require.True(t, l.Crowded())
		time.Sleep(crowdLasts) //nolint:forbidigo // of the bubble's clock
		require.False(t, l.Crowded())
	})
}

func TestWhoFailedInACrowdIsToldLaterWhileThereIsRoom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := NewLane(20, time.Now)
		keep := func(ctx context.Context, attempts int) <-chan attempt {
			return try(ctx, l, attempts, func(ctx context.Context) (issue.Entry, error) {
				l.Keep(ctx)
				return issue.Entry{}, ctx.Err()
			})
		}
		l.Failed(flooding, time.Hour)
		waiting := enter(t.Context(), l, flooding, 10)
		kept := keep(t.Context(), laneKept-1) // as many as if nobody else waited
		leaving, leave := context.WithCancel(t.Context())
		last := keep(leaving, 1)
		require.Zero(t, (<-keep(t.Context(), 1)).took)
		leave()
		require.ErrorIs(t, (<-last).err, context.Canceled)
		for range laneKept - 1 {
			require.Equal(t, laneRefusal, (<-kept).took)
		}
		require.Len(t, waiting, 10)

		last = keep(t.Context(), crowdWaits-1)
		enter(t.Context(), l, flooding, 1)
		require.True(t, l.Crowded(), "who was refused is there too")
		for range crowdWaits - 1 {
			<-last
		}
		require.Zero(t, l.waiting.Load())
		require.Zero(t, l.kept.Load())
	})
}

func TestARefusalIsToldWhenItIsTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &Failures{limiter: ratelimit.New(nil, telemetry.Discard("token")), lane: NewLane(20, time.Now)}
		began := time.Now()
		f.Refused(t.Context())
		require.Equal(t, laneRefusal, time.Since(began))
	})
}

func TestWhatCostsMuchIsLookedIntoOneByOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := NewLane(20, time.Now)
		l.Failed(flooding, time.Minute)
		queued := queueUp(t.Context(), l, flooding, 100)
		for i := range 100 {
			a := <-queued
			require.NoError(t, a.err)
			require.InDelta(t, time.Duration(i)*laneInterval, a.took, float64(laneInterval))
		}
	})
}

func TestNoMoreQueueThanCanBeLookedIntoInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := NewLane(20, time.Now)
		l.Failed(flooding, time.Minute)
		const more = 30
		queued := queueUp(t.Context(), l, flooding, laneRoom+more)
		full := 0
		for range laneRoom + more {
			a := <-queued
			require.LessOrEqual(t, a.took, laneWait)
			if a.err != nil {
				require.ErrorIs(t, a.err, errLaneFull)
				full++
			}
		}
		require.InDelta(t, more, full, 2, "the first two are looked into at once")
		require.NoError(t, (<-queueUp(t.Context(), l, flooding, 1)).err, "who was turned away took nobody's turn")
	})
}

func TestWhoGoesAwayWhileItQueuesLeavesItsTurnToOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := NewLane(20, time.Now)
		l.Failed(flooding, time.Minute)
		ctx, cancel := context.WithCancel(t.Context())
		queued := queueUp(ctx, l, flooding, laneRoom-2)
		stayed := queueUp(t.Context(), l, flooding, 2)
		cancel()
		gone := 0
		for range laneRoom - 2 {
			if a := <-queued; a.err != nil {
				require.ErrorIs(t, a.err, context.Canceled)
				gone++
			}
		}
		require.GreaterOrEqual(t, gone, laneRoom-4)
		for range 2 {
			a := <-stayed
			require.NoError(t, a.err)
			require.LessOrEqual(t, a.took, 3*laneInterval)
		}
		require.Zero(t, l.limited.waiting)
		require.Empty(t, l.limited.from)
	})
}

func TestAddressesPastTheirLimitHoldUpNobodyElsesQueue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := NewLane(20, time.Now)
		exhaust(l)
		l.Failed(flooding, time.Minute)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		queued := queueUp(ctx, l, flooding, 2*laneRoom)
		require.Equal(t, attempt{}, <-queueUp(t.Context(), l, quiet, 1))
		cancel()
		for range 2 * laneRoom {
			<-queued
		}
	})
}

func TestNoAddressWithinItsLimitTakesMoreThanItsShareOfTheQueue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := NewLane(20, time.Now)
		exhaust(l)
		queued := queueUp(t.Context(), l, flooding, laneRoom)
		a := <-queueUp(t.Context(), l, quiet, 1)
		require.NoError(t, a.err)
		require.LessOrEqual(t, a.took, (laneShare+1)*laneInterval)
		turned := 0
		for range laneRoom {
			if a := <-queued; a.err != nil {
				require.ErrorIs(t, a.err, errLaneFull)
				turned++
			}
		}
		require.InDelta(t, laneRoom-laneShare, turned, 2, "the first two are looked into at once")
	})
}

func TestWaitingInACrowdEndsWithTheContext(t *testing.T) {
	t.Parallel()
	l := NewLane(20, time.Now)
	l.Failed(flooding, time.Minute)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := l.Enter(ctx, flooding)
	require.ErrorIs(t, err, context.Canceled)
	require.Zero(t, l.waiting.Load())
}
