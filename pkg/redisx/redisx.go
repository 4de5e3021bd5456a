// Package redisx is the way to Redis: one lazy client per service with short timeouts, a key prefix
// and metrics. Redis is a cache here and never the truth, so this package must not retry for long, must not
// have every request wait for a server that hangs, nor hide that Redis is away: the caller decides what holds without it.
package redisx

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/redis/go-redis/v9/maintnotifications"
	"golang.org/x/sync/singleflight"

	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/pkg/together"
)

// A request that needs Redis falls back without it, so it must not wait long to learn that.
const (
	dialTimeout = 250 * time.Millisecond
	ioTimeout   = 250 * time.Millisecond
	poolTimeout = 300 * time.Millisecond
)

// Config says where Redis is and under which prefix this deployment keeps its keys.
type Config struct {
	URL       config.Secret `env:"REDIS_URL" required:"true" desc:"Redis URL, redis:// or rediss://"`
	KeyPrefix string        `env:"REDIS_KEY_PREFIX" default:"agentidp:" desc:"put before every Redis key"`
}

// Validate refuses a URL that is none; the error never carries it.
func (c Config) Validate() error {
	if _, err := redis.ParseURL(c.URL.Reveal()); err != nil && c.URL != "" {
		return errors.New("REDIS_URL is not a valid Redis URL")
	}
	return nil
}

// Client is a connection pool to Redis. It is safe for concurrent use. While the server does not answer in time, commands fail
// at once, but for one now and then; those of Insisting are sent all the same.
type Client struct {
	redis.UniversalClient
	insisting *Client
	prefix    string
	runID     *atomic.Value // string
	shared    *together.Trips[redis.Cmder, struct{}]
	loads     *singleflight.Group // of scripts, by their hash
}

// Open makes the client without connecting: the server may come later. It fails only for a URL that
// cannot be parsed; the error never carries the URL, which may hold a password.
func Open(cfg Config, tel *telemetry.Telemetry) (*Client, error) {
	opts, err := redis.ParseURL(cfg.URL.Reveal())
	if err != nil {
		return nil, errors.New("REDIS_URL is not a valid Redis URL")
	}
	// The library writes lines of its own to standard error for what it also returns as an error;
	// its switch for that is one for the whole process.
	logging.Disable()
	runID := new(atomic.Value)
	runID.Store("")
	opts.DialTimeout, opts.ReadTimeout, opts.WriteTimeout = dialTimeout, ioTimeout, ioTimeout
	opts.PoolTimeout = poolTimeout
	// The pool's default, five dials 100 ms apart, would hold up every request while Redis is away.
	opts.DialerRetries = 1
	opts.ContextTimeoutEnabled = true
	opts.MaxRetries, opts.DialerRetries = 1, 1
	opts.MinRetryBackoff, opts.MaxRetryBackoff = 5*time.Millisecond, 20*time.Millisecond
	// Needs Redis Enterprise, and costs every new connection a round trip.
	opts.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	opts.OnConnect = func(ctx context.Context, conn *redis.Conn) error {
		// A server that does not tell its run id can be used all the same.
		info, err := conn.Info(ctx, "server").Result()
		if err != nil && !isReply(err) {
			return fmt.Errorf("greet redis: %w", err)
		}
		if redis.HasErrorPrefix(err, "NOPERM") && tel != nil {
			tel.Log.WarnContext(ctx, "redis refuses INFO: a restart that keeps old data cannot be noticed; allow this user +info", slog.Any("error", err))
		}
		runID.Store(parseRunID(info))
		return nil
	}
	guarded := redis.NewClient(opts)
	insisting := guarded.WithTimeout(ioTimeout) // the same pool
	guarded.AddHook(newBreaker(tel))            // around the timer: what is not sent takes no time
	if tel != nil {
		guarded.AddHook(commandTimer{metrics: tel.Metrics})
		insisting.AddHook(commandTimer{metrics: tel.Metrics})
	}
	client := func(c redis.UniversalClient) *Client {
		return &Client{UniversalClient: c, prefix: cfg.KeyPrefix, runID: runID, shared: newTrips(c), loads: new(singleflight.Group)}
	}
	c := client(guarded)
	c.insisting = client(insisting)
	c.insisting.insisting = c.insisting
	return c, nil
}

// Insisting is the client, on the same connections, for what nobody's request waits for, or what must not miss the moment
// in which a server is back: its commands are sent however long the server has not answered.
func (c *Client) Insisting() *Client { return c.insisting }

// Key joins the parts with colons behind the prefix of this deployment.
func (c *Client) Key(parts ...string) string { return c.prefix + strings.Join(parts, ":") }

// RunID is the run id of the server that the newest connection reached: it changes when the
// server restarts or another one takes over. It is "" until a connection was made, and with
// servers that do not tell it. A connection that is made while an answer is awaited may change it:
// read it after the answer that it is to be compared with.
func (c *Client) RunID() string {
	id, _ := c.runID.Load().(string)
	return id
}

// Ready answers nil when Redis takes commands.
func (c *Client) Ready(ctx context.Context) error {
	if err := c.insisting.Ping(ctx).Err(); err != nil {
		return fmt.Errorf("redis is not ready: %w", err)
	}
	return nil
}

// isReply tells an error that the server answered from a connection that failed.
func isReply(err error) bool {
	var reply redis.Error
	return errors.As(err, &reply)
}

func parseRunID(info string) string {
	for line := range strings.Lines(info) {
		if id, ok := strings.CutPrefix(line, "run_id:"); ok {
			return strings.TrimSpace(id)
		}
	}
	return ""
}
