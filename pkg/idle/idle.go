// Package idle lets time pass, for as long as somebody still waits for what comes after. It is for loops that run
// beside requests, and for pauses between attempts. It must not be used to wait for what can be told: that wants a
// channel.
package idle

import (
	"context"
	"time"
)

// For waits for d, or until ctx ends, whose error it then returns. With d ≤ 0 it does not wait.
func For(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
