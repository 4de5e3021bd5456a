package quota

import (
	"context"
	"time"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/ratelimit"
	"github.com/sentryagent/agentidp/pkg/redisx"
	"github.com/sentryagent/agentidp/services/token/internal/issue"
)

// perAddress is by how much more one address may fail than one client from it.
const perAddress = 10

// Failures counts failed client authentications per client and address, and per
// address. The addresses of an IPv6 network of 64 bits count as one.
type Failures struct {
	redis   *redisx.Client
	limiter *ratelimit.Limiter
	limit   int
	lane    *Lane // nil without a limit
}

var _ issue.Failures = (*Failures)(nil)

// NewFailures makes Failures; perMinute is the limit of a client from one address, 0 for none.
func NewFailures(rdb *redisx.Client, limiter *ratelimit.Limiter, perMinute int) *Failures {
	f := &Failures{redis: rdb, limiter: limiter, limit: perMinute}
	if perMinute > 0 {
		f.lane = NewLane(perMinute, time.Now)
	}
	return f
}

// Enter waits until an attempt may be looked into that nothing remembered proves.
func (f *Failures) Enter(ctx context.Context, ipAddress string) (issue.Entry, error) {
	if f.lane == nil {
		return issue.Entry{}, nil
	}
	entry, err := f.lane.Enter(ctx, placeOf(ipAddress))
	if err != nil {
		return issue.Entry{}, apperr.Unavailable(err)
	}
	return entry, nil
}

// Queue waits for the turn of one that it costs much to look into.
func (f *Failures) Queue(ctx context.Context, ipAddress string) error {
	if err := f.lane.Queue(ctx, placeOf(ipAddress)); err != nil {
		return apperr.Unavailable(err)
	}
	return nil
}

// Crowded tells whether attempts to authenticate fail in such numbers that new
// connections are to wait.
func (f *Failures) Crowded() bool { return f.lane != nil && f.lane.Crowded() }

// Refused counts a failure in a crowd, for the operator alone, and waits until it is
// time to tell.
func (f *Failures) Refused(ctx context.Context) {
	f.limiter.Rejected()
	f.lane.Keep(ctx)
}

// Count counts one more failure; past a limit it answers how long to wait.
func (f *Failures) Count(ctx context.Context, clientID, ipAddress string) time.Duration {
	if f.limit <= 0 {
		return 0
	}
	place := placeOf(ipAddress)
	pipe := f.redis.Pipeline()
	client := f.limiter.Queue(ctx, pipe, "failures:client:"+clientID+":"+place, f.limit)
	address := f.limiter.Queue(ctx, pipe, "failures:address:"+place, perAddress*f.limit)
	_, _ = pipe.Exec(ctx) // each command's own error is read below
	limited := retryAfter(address)
	f.lane.Failed(place, limited)
	return max(limited, retryAfter(client))
}

// retryAfter is 0 where the window allows the request, and at least a second where not.
func retryAfter(read func() (ratelimit.Window, error)) time.Duration {
	window, err := read()
	if err != nil || window.Allowed {
		return 0
	}
	return max(window.RetryAfter, time.Second)
}
