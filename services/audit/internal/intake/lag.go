package intake

import (
	"context"
	"time"

	"github.com/sentryagent/agentidp/pkg/natsx"
)

// watchLag samples how far the trail is behind. A message leaves the stream when
// it is acknowledged, so the oldest one in it is the oldest one not yet stored.
// While NATS cannot be asked, the last answer ages on: a waiting event does not
// get younger.
func (in *Intake) watchLag(ctx context.Context) {
	ticker := time.NewTicker(sampleLag)
	defer ticker.Stop()
	var oldest time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if first, err := in.oldest(ctx); err == nil {
			oldest = first
		}
		in.lag.Set(lag(oldest, in.clock()))
	}
}

// oldest is when the oldest waiting message was published, zero if none waits.
func (in *Intake) oldest(ctx context.Context) (time.Time, error) {
	ask, cancel := context.WithTimeout(ctx, sampleLag)
	defer cancel()
	stream, err := in.conn.JS().Stream(ask, natsx.AuditStream)
	if err != nil {
		return time.Time{}, err
	}
	state := stream.CachedInfo().State
	if state.Msgs == 0 {
		return time.Time{}, nil
	}
	return state.FirstTime, nil
}

func lag(oldest, now time.Time) float64 {
	if oldest.IsZero() {
		return 0
	}
	return max(0, now.Sub(oldest).Seconds())
}
