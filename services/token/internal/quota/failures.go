package quota

import (
	"context"
	"time"

	"github.com/sentryagent/agentidp/pkg/ratelimit"
	"github.com/sentryagent/agentidp/pkg/redisx"
	"github.com/sentryagent/agentidp/services/token/internal/issue"
)

// perAddress is by how much more one address may fail than one client from it.
const perAddress = 10

// Failures counts failed client authentications per client and address, and per address.
type Failures struct {
	redis   *redisx.Client
	limiter *ratelimit.Limiter
	limit   int
}

var _ issue.Failures = (*Failures)(nil)

// NewFailures makes Failures; perMinute is the limit of a client from one address, 0 for none.
func NewFailures(rdb *redisx.Client, limiter *ratelimit.Limiter, perMinute int) *Failures {
	return &Failures{redis: rdb, limiter: limiter, limit: perMinute}
}

// Count counts one more failure; past a limit it answers how long to wait.
func (f *Failures) Count(ctx context.Context, clientID, ipAddress string) time.Duration {
	if f.limit <= 0 {
		return 0
	}
	pipe := f.redis.Pipeline()
	client := f.limiter.Queue(ctx, pipe, "failures:client:"+clientID+":"+ipAddress, f.limit)
	address := f.limiter.Queue(ctx, pipe, "failures:address:"+ipAddress, perAddress*f.limit)
	_, _ = pipe.Exec(ctx) // each command's own error is read below
	var wait time.Duration
	for _, read := range []func() (ratelimit.Window, error){client, address} {
		if window, err := read(); err == nil && !window.Allowed {
			wait = max(wait, window.RetryAfter, time.Second)
		}
	}
	return wait
}
