package quota

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/testkit"
)

const flooding, quiet = "192.0.2.1", "192.0.2.2"

// lane is a Lane whose sleeps take no time and are written down.
func lane(perMinute int) (*Lane, *testkit.Clock, *[]time.Duration) {
	clock := testkit.NewClock(time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC))
	l := NewLane(perMinute, clock.Now)
	slept := &[]time.Duration{}
	l.sleep = func(ctx context.Context, d time.Duration) error {
		*slept = append(*slept, d)
		return ctx.Err()
	}
	return l, clock, slept
}

func TestAttemptsWaitForEachOtherFromAnAddressPastItsLimit(t *testing.T) {
	t.Parallel()
	l, clock, slept := lane(20)
	l.Failed(flooding, 0)
	limited, err := l.Enter(t.Context(), flooding)
	require.NoError(t, err)
	require.Zero(t, limited)
	require.Empty(t, *slept, "a failure is no flood")

	l.Failed(flooding, 30*time.Second)
	for range 100 {
		limited, err := l.Enter(t.Context(), flooding)
		require.NoError(t, err)
		require.Equal(t, 30*time.Second, limited)
	}
	require.Equal(t, laneDelay, (*slept)[0])
	require.Equal(t, 990*time.Millisecond, (*slept)[99], "a hundred a second")

	*slept = nil
	limited, err = l.Enter(t.Context(), quiet)
	require.NoError(t, err)
	require.Zero(t, limited)
	require.Empty(t, *slept, "other addresses do not wait")

	clock.Advance(30 * time.Second)
	limited, err = l.Enter(t.Context(), flooding)
	require.NoError(t, err)
	require.Zero(t, limited)
	require.Empty(t, *slept)
}

func TestNoMoreWaitThanCanBeLookedIntoInTime(t *testing.T) {
	t.Parallel()
	l, clock, slept := lane(20)
	l.Failed(flooding, time.Minute)
	entered := 0
	for {
		_, err := l.Enter(t.Context(), flooding)
		if err != nil {
			require.ErrorIs(t, err, errLaneFull)
			break
		}
		entered++
	}
	require.Equal(t, 1+int(laneRate*laneWait/time.Second), entered)
	for range 3 {
		limited, err := l.Enter(t.Context(), flooding)
		require.ErrorIs(t, err, errLaneFull)
		require.Equal(t, time.Minute, limited)
		require.Equal(t, laneDelay, (*slept)[len(*slept)-1], "nor is it answered at once")
	}
	clock.Advance(time.Second)
	_, err := l.Enter(t.Context(), flooding)
	require.NoError(t, err, "who was turned away took nobody's turn")
}

func TestAFloodFromEverywhereQueuesToo(t *testing.T) {
	t.Parallel()
	l, clock, slept := lane(1)
	for i := range perAddress * lanePerReplica {
		_, err := l.Enter(t.Context(), quiet)
		require.NoError(t, err)
		l.Failed(fmt.Sprintf("198.51.100.%d", i), 0)
	}
	require.Empty(t, *slept)
	limited, err := l.Enter(t.Context(), quiet)
	require.NoError(t, err)
	require.Zero(t, limited, "its failures are counted and recorded")
	require.Equal(t, []time.Duration{laneDelay}, *slept)
	clock.Advance(time.Minute / (perAddress * lanePerReplica))
	_, err = l.Enter(t.Context(), quiet)
	require.NoError(t, err)
	require.Len(t, *slept, 1)
}

func TestWaitingInTheLaneEndsWithTheContext(t *testing.T) {
	t.Parallel()
	l, _, _ := lane(20)
	l.Failed(flooding, time.Minute)
	l.sleep = sleep
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := l.Enter(ctx, flooding)
	require.ErrorIs(t, err, context.Canceled)
}
