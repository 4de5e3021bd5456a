package idle

import (
	"context"
	"time"
)

// Every does work at once, and then after each pause until ctx ends. How long it may take once is for work to bound.
func Every(ctx context.Context, pause time.Duration, work func(context.Context)) {
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	for {
		work(ctx)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// Outage lets a loop say once that its work fails, until it works again. It starts with work that does not fail.
type Outage struct{ lasts bool }

// Begins takes what came of the work, and tells whether that is the first failure of an outage. When ctx has ended none
// begins: what failed was interrupted.
func (o *Outage) Begins(ctx context.Context, err error) bool {
	before := o.lasts
	o.lasts = err != nil
	return o.lasts && !before && ctx.Err() == nil
}
