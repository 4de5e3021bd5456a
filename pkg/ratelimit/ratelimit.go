// Package ratelimit counts requests per key in an exact sliding window of one minute, in Redis, so that all replicas share
// it. It must never stand in the way when Redis does not answer: then it admits, logs and counts that it did.
package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"golang.org/x/time/rate"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/redisx"
	"github.com/sentryagent/agentidp/pkg/telemetry"
)

// Length is the length of the window.
const Length = time.Minute

// logInterval is how often it is logged that Redis does not answer.
const logInterval = 10 * time.Second

// Lua defines the local function take(key, limit), for scripts that do more in the same round trip. It charges the key (one of
// RedisKey) with one request if fewer than limit, at least 1, were admitted in the last minute, writes nothing but that key,
// and returns the array that Read takes: {admitted 0|1, remaining, µs epoch when the whole limit is free again, µs until a
// retry is admitted}.
//
// The key is a list of the admission times in µs, oldest first: exact, and while nothing has expired only its ends are
// looked at.
const Lua = `
local function take(key, limit)
  local window = 60000000
  local time = redis.call('TIME')
  local now = time[1] * 1000000 + time[2]
  local n = redis.call('LLEN', key)
  local function admitted_at(i)
    return tonumber(redis.call('LINDEX', key, i))
  end

  if n > 0 then
    -- The list must stay in order when the server's clock is set back; the key's own expiry bounds for how long that matters.
    now = math.max(now, admitted_at(-1))
  end

  if n > 0 and admitted_at(0) <= now - window then
    local low, high = 1, n
    while low < high do
      local middle = math.floor((low + high) / 2)
      if admitted_at(middle) <= now - window then
        low = middle + 1
      else
        high = middle
      end
    end
    redis.call('LTRIM', key, low, -1)
    n = n - low
  end

  if n < limit then
    redis.call('RPUSH', key, string.format('%.0f', now))
    redis.call('PEXPIRE', key, 60001)
    return {1, limit - n - 1, now + window, 0}
  end
  -- More than limit are there when the limit was lowered: all of those too many have to expire first.
  return {0, 0, admitted_at(-1) + window, admitted_at(n - limit) + window - now}
end
`

// MaxPerMinute is the highest limit. It lies far below where the script's numbers stop being exact, and ten times as many overflow.
const MaxPerMinute = 1_000_000_000

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

// Err is nil when the request was allowed, else RATE_LIMIT_EXCEEDED with Retry-After.
func (w Window) Err() error {
	if w.Allowed {
		return nil
	}
	return apperr.New(apperr.RateLimitExceeded, "Too many requests; the limit is "+strconv.Itoa(w.Limit)+" per minute.").
		WithRetryAfter(w.RetryAfter)
}

// Untouched is the window of a key that was not charged, for answers given before the client is known.
func Untouched(limit int, now time.Time) Window {
	return Window{Limit: limit, Remaining: limit, Reset: now.Add(Length), Allowed: true}
}

// WriteHeaders sets X-RateLimit-Limit, -Remaining and -Reset (epoch seconds, rounded up), unless the limit is off.
func WriteHeaders(h http.Header, w Window) {
	if w.Limit == 0 {
		return
	}
	reset := w.Reset.Add(time.Second - time.Nanosecond).Unix()
	// In their canonical form, which spares Header.Set its work: this runs on every request.
	values := []string{strconv.Itoa(w.Limit), strconv.Itoa(w.Remaining), strconv.FormatInt(reset, 10)}
	h["X-Ratelimit-Limit"] = values[0:1:1]
	h["X-Ratelimit-Remaining"] = values[1:2:2]
	h["X-Ratelimit-Reset"] = values[2:3:3]
}

// ClientKey is the key that a client's requests are charged to, at every service.
func ClientKey(clientID uuid.UUID) string { return "client:" + clientID.String() }

// Limiter takes requests. It is safe for concurrent use.
type Limiter struct {
	rdb    *redisx.Client
	tel    *telemetry.Telemetry
	script *redis.Script
	look   *redis.Script
	opened prometheus.Counter
	logged rate.Sometimes
}

// New gives a limiter on that Redis. It registers agentidp_rate_limit_open_total, which counts the requests that were admitted
// because Redis did not answer; all limiters of one registry share it.
func New(rdb *redisx.Client, tel *telemetry.Telemetry) *Limiter {
	opened := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "agentidp_rate_limit_open_total", Help: "Requests admitted unlimited because Redis did not answer.",
	})
	var known prometheus.AlreadyRegisteredError
	if err := tel.Metrics.Registry.Register(opened); errors.As(err, &known) {
		if c, ok := known.ExistingCollector.(prometheus.Counter); ok {
			opened = c
		}
	}
	return &Limiter{
		rdb:    rdb,
		tel:    tel,
		script: redis.NewScript(Lua + "return take(KEYS[1], tonumber(ARGV[1]))"),
		look:   redis.NewScript(lookLua),
		opened: opened,
		logged: rate.Sometimes{Interval: logInterval},
	}
}

// RedisKey is the full Redis key of a limiter key, for scripts that use Lua.
func (l *Limiter) RedisKey(key string) string { return l.rdb.Key("rate", key) }

// Take charges key with one request, in one round trip. With limit 0 nothing is asked. When Redis does not answer the
// request is allowed; the error is non-nil only if ctx is done.
func (l *Limiter) Take(ctx context.Context, key string, limit int) (Window, error) {
	if limit <= 0 {
		return Window{Allowed: true}, nil
	}
	reply, err := l.rdb.RunScript(ctx, l.script, []string{l.RedisKey(key)}, limit).Result()
	return l.Read(ctx, limit, reply, err)
}

// lookLua answers as take does. The limit-th newest admission is the one that has to expire for another.
const lookLua = `
local window, limit = 60000000, tonumber(ARGV[1])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local eldest = tonumber(redis.call('LINDEX', KEYS[1], -limit) or '0')
if eldest <= now - window then
  return {1, math.max(limit - redis.call('LLEN', KEYS[1]), 0), now + window, 0}
end
return {0, 0, tonumber(redis.call('LINDEX', KEYS[1], -1)) + window, eldest + window - now}
`

// Look answers what Take would say of another request, and charges nothing.
func (l *Limiter) Look(ctx context.Context, key string, limit int) (Window, error) {
	if limit <= 0 {
		return Window{Allowed: true}, nil
	}
	reply, err := l.rdb.RunScript(ctx, l.look, []string{l.RedisKey(key)}, limit).Result()
	return l.Read(ctx, limit, reply, err)
}

// Queue adds Take to a pipeline; the function it returns gives the window after the pipeline was executed, as Take does.
// Where the server did not know the script (it was restarted), that function makes one more round trip.
func (l *Limiter) Queue(ctx context.Context, pipe redis.Pipeliner, key string, limit int) func() (Window, error) {
	if limit <= 0 {
		return func() (Window, error) { return Window{Allowed: true}, nil }
	}
	cmd := l.script.EvalSha(ctx, pipe, []string{l.RedisKey(key)}, limit)
	return func() (Window, error) {
		reply, err := cmd.Result()
		if redis.HasErrorPrefix(err, "NOSCRIPT") {
			reply, err = l.script.Eval(ctx, l.rdb, []string{l.RedisKey(key)}, limit).Result()
		}
		return l.Read(ctx, limit, reply, err)
	}
}

// Read makes a Window of what take in Lua returned, or of the error its call ended with, with the same logging, counting
// and opening as Take. It is for callers that run Lua in a script of their own. With limit 0 neither is looked at.
func (l *Limiter) Read(ctx context.Context, limit int, reply any, err error) (Window, error) {
	if limit <= 0 {
		return Window{Allowed: true}, nil
	}
	var w Window
	if err == nil {
		w, err = parse(limit, reply)
	}
	if err != nil {
		if ctx.Err() != nil {
			return Window{}, ctx.Err()
		}
		l.opened.Inc()
		l.logged.Do(func() {
			l.tel.Log.WarnContext(ctx, "rate limit open: redis did not take the request", slog.Any("error", err))
		})
		return Untouched(limit, time.Now()), nil
	}
	if !w.Allowed {
		l.Rejected()
	}
	return w, nil
}

// Rejected counts a request that is refused for a limit without being charged, as Take and Read count those they refuse.
func (l *Limiter) Rejected() { l.tel.Metrics.RateLimitRejections.Inc() }

func parse(limit int, reply any) (Window, error) {
	values, _ := reply.([]any)
	if len(values) != 4 {
		return Window{}, fmt.Errorf("rate limit script answered %T of %d", reply, len(values))
	}
	var n [4]int64
	for i, v := range values {
		var ok bool
		if n[i], ok = v.(int64); !ok {
			return Window{}, fmt.Errorf("rate limit script answered %T at %d", v, i)
		}
	}
	return Window{
		Limit:      limit,
		Allowed:    n[0] == 1,
		Remaining:  int(n[1]),
		Reset:      time.UnixMicro(n[2]).UTC(),
		RetryAfter: time.Duration(n[3]) * time.Microsecond,
	}, nil
}
