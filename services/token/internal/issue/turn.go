package issue

import (
	"context"
	"time"
)

// crowdRetry is when who failed in a crowd may try again, where nothing says more.
const crowdRetry = 5 * time.Second

// turn is the turn of one attempt to authenticate that nothing remembered proves.
type turn struct {
	failures  Failures
	ipAddress string

	taken bool // or asked for in vain
	entry Entry
	full  bool // it cannot be looked into
	err   error
}

// enter waits until the attempt may be looked into, the first time it is called.
func (t *turn) enter(ctx context.Context) error {
	if !t.taken {
		t.taken = true
		t.entry, t.err = t.failures.Enter(ctx, t.ipAddress)
	}
	return t.err
}

// queue is enter for an attempt that costs much to look into: in a crowd it has to
// wait until it is its turn.
func (t *turn) queue(ctx context.Context) error {
	queued := t.taken
	if err := t.enter(ctx); err != nil || queued || !t.entry.Crowd {
		return err
	}
	t.err = t.failures.Queue(ctx, t.ipAddress)
	t.full = t.err != nil
	return t.err
}

// retryAfter is for who failed in a crowd.
func (t *turn) retryAfter() time.Duration {
	if t.entry.Limited > 0 {
		return t.entry.Limited
	}
	return crowdRetry
}

// end lets others have their turn, the first time it is called: after a failure was
// counted, or before something is waited for that takes as long as a stranger likes.
func (t *turn) end() {
	if t.entry.Leave != nil {
		t.entry.Leave()
		t.entry.Leave = nil
	}
}
