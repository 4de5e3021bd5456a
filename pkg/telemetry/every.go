package telemetry

import (
	"context"
	"time"
)

// Every keeps metrics that have to be asked for: it looks at once, and then after each pause until ctx ends. How long one
// look may take is for look to bound; while it fails, metrics keep their last values.
func Every(ctx context.Context, pause time.Duration, look func(context.Context)) {
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	for {
		look(ctx)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
