package redisx

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// ferry carries batches when it is told to, and answers each command with its own key.
type ferry struct {
	arrived chan []redis.Cmder
	leave   chan struct{}
}

func newFerry() (*ferry, *together) {
	f := &ferry{arrived: make(chan []redis.Cmder, 10), leave: make(chan struct{})}
	return f, &together{exec: func(_ context.Context, batch []redis.Cmder) {
		f.arrived <- batch
		<-f.leave
		for _, cmd := range batch {
			cmd.(*redis.Cmd).SetVal(cmd.Args()[1])
		}
	}}
}

func (f *ferry) next(t *testing.T) []redis.Cmder {
	t.Helper()
	select {
	case batch := <-f.arrived:
		return batch
	case <-time.After(10 * time.Second):
		require.Fail(t, "no batch was sent")
		return nil
	}
}

func (t *together) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.waiting)
}

func TestWhatIsAskedMeanwhileGoesTogether(t *testing.T) {
	t.Parallel()
	f, shared := newFerry()
	var group sync.WaitGroup
	send := func(key string) {
		group.Go(func() {
			cmd := redis.NewCmd(context.Background(), "get", key)
			if err := shared.send(t.Context(), cmd); err != nil || cmd.Val() != key {
				t.Errorf("%s: %v, %v", key, cmd.Val(), err)
			}
		})
	}
	send("a")
	require.Len(t, f.next(t), 1, "nobody waits for company")
	send("b")
	require.Len(t, f.next(t), 1, "nor for one batch that is under way")
	for _, key := range []string{"c", "d", "e", "f", "g"} {
		send(key)
	}
	require.Eventually(t, func() bool { return shared.count() == 5 }, 10*time.Second, time.Millisecond)
	f.leave <- struct{}{}
	require.Len(t, f.next(t), 5)
	f.leave <- struct{}{}
	f.leave <- struct{}{}
	group.Wait()

	send("h")
	require.Len(t, f.next(t), 1, "places under way were given up")
	send("i")
	f.next(t)
	f.leave <- struct{}{}
	f.leave <- struct{}{}
	group.Wait()
}

func TestABatchIsBounded(t *testing.T) {
	t.Parallel()
	f, shared := newFerry()
	var group sync.WaitGroup
	for range maxUnderWay {
		group.Go(func() { _ = shared.send(t.Context(), redis.NewCmd(context.Background(), "get", "first")) })
		f.next(t)
	}
	for range maxBatch + 3 {
		group.Go(func() { _ = shared.send(t.Context(), redis.NewCmd(context.Background(), "get", "more")) })
	}
	require.Eventually(t, func() bool { return shared.count() == maxBatch+3 }, 10*time.Second, time.Millisecond)
	f.leave <- struct{}{}
	require.Len(t, f.next(t), maxBatch)
	f.leave <- struct{}{}
	require.Len(t, f.next(t), 3)
	f.leave <- struct{}{}
	f.leave <- struct{}{}
	group.Wait()
}

func TestWhoIsInAHurryLeavesAndTheOthersGetTheirAnswer(t *testing.T) {
	t.Parallel()
	f, shared := newFerry()
	var group sync.WaitGroup
	for range maxUnderWay {
		group.Go(func() { _ = shared.send(t.Context(), redis.NewCmd(context.Background(), "get", "first")) })
		f.next(t)
	}
	hurry, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() { left <- shared.send(hurry, redis.NewCmd(context.Background(), "get", "gone")) }()
	stays := redis.NewCmd(context.Background(), "get", "stays")
	group.Go(func() { _ = shared.send(t.Context(), stays) })
	require.Eventually(t, func() bool { return shared.count() == 2 }, 10*time.Second, time.Millisecond)
	leave()
	require.ErrorIs(t, <-left, context.Canceled)
	f.leave <- struct{}{}
	require.Len(t, f.next(t), 2)
	f.leave <- struct{}{}
	f.leave <- struct{}{}
	group.Wait()
	require.Equal(t, "stays", stays.Val())
}
