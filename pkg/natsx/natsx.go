// Package natsx is the way to NATS: one lazy connection per service that survives the server being
// away, and the one place where the streams are declared. It must not publish or consume by itself,
// and publishers must not declare: a message for a stream that nobody consumes yet waits in its
// outbox.
package natsx

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/telemetry"
)

const (
	connectTimeout  = 2 * time.Second
	reconnectWait   = 200 * time.Millisecond
	reconnectJitter = 200 * time.Millisecond
	// A server that hangs is noticed after two pings without an answer.
	pingInterval = 3 * time.Second
	pingsOut     = 2
	drainTimeout = 5 * time.Second
	// What an async publisher has in flight at most, and how long an ack may take.
	maxInFlight = 8192
	ackTimeout  = 5 * time.Second
)

// Config says where NATS is.
type Config struct {
	URL      config.Secret `env:"NATS_URL" required:"true" desc:"NATS URLs, comma separated"`
	Replicas int           `env:"NATS_STREAM_REPLICAS" default:"1" desc:"copies of each stream in the NATS cluster, 1 to 5"`
}

// Validate refuses a number of copies that no NATS cluster can keep, and URLs that are none; an error
// never carries the URL.
func (c Config) Validate() error {
	var failures []error
	if c.Replicas < 1 || c.Replicas > 5 {
		failures = append(failures, errors.New("NATS_STREAM_REPLICAS must be from 1 to 5"))
	}
	for one := range strings.SplitSeq(c.URL.Reveal(), ",") {
		if c.URL != "" && !validURL(strings.TrimSpace(one)) {
			failures = append(failures, errors.New("NATS_URL is not a valid NATS URL"))
			break
		}
	}
	return errors.Join(failures...)
}

// validURL takes what the client library takes: a host, with or without scheme and port.
func validURL(one string) bool {
	if !strings.Contains(one, "://") {
		one = "nats://" + one
	}
	u, err := url.Parse(one)
	if err != nil || !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme) {
		return false
	}
	return u.Hostname() != "" && (strings.HasPrefix(u.Host, "[") || !strings.Contains(u.Hostname(), ":"))
}

const (
	untold int32 = iota
	up
	away
)

// Conn is one connection to NATS. It is safe for concurrent use.
type Conn struct {
	nc       *nats.Conn
	js       jetstream.JetStream
	log      *slog.Logger
	replicas int
	closed   chan struct{}
	// state is what the handlers were told last. The library's own answer waits, while it connects, for a server that accepts
	// and says nothing: up to connectTimeout.
	state atomic.Int32

	mu        sync.Mutex
	lastID    int
	onConnect map[int]func()
}

// Connect makes the connection in the background: it does not need the server up, and it never
// gives up. It fails only for a URL that cannot be parsed. What is published while the server is
// away fails at once instead of waiting in memory, where a crash would lose it.
func Connect(cfg Config, name string, tel *telemetry.Telemetry) (*Conn, error) {
	c := &Conn{
		log: tel.Log, replicas: max(cfg.Replicas, 1),
		closed: make(chan struct{}), onConnect: map[int]func(){},
	}
	nc, err := nats.Connect(cfg.URL.Reveal(), append(c.handlers(),
		nats.Name(name),
		// Answers come to an inbox below the service's own name, so that its NATS user can be kept from those of others.
		nats.CustomInboxPrefix("_INBOX."+name),
		nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.IgnoreAuthErrorAbort(),
		nats.ReconnectWait(reconnectWait), nats.ReconnectJitter(reconnectJitter, reconnectJitter),
		nats.ReconnectBufSize(-1),
		nats.Timeout(connectTimeout), nats.PingInterval(pingInterval), nats.MaxPingsOutstanding(pingsOut),
		nats.DrainTimeout(drainTimeout),
	)...)
	if err != nil {
		// The library's error may repeat the URL, which may hold a password.
		return nil, errors.New("NATS_URL is not a valid NATS URL")
	}
	js, err := jetstream.New(nc,
		jetstream.WithPublishAsyncMaxPending(maxInFlight), jetstream.WithPublishAsyncTimeout(ackTimeout))
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("jetstream: %w", err)
	}
	c.nc, c.js = nc, js
	if nc.IsConnected() { // which the handler may not have been told yet
		c.state.CompareAndSwap(untold, up)
	}
	return c, nil
}

func (c *Conn) handlers() []nats.Option {
	return []nats.Option{
		nats.ConnectHandler(func(*nats.Conn) { c.connected() }),
		nats.ReconnectHandler(func(*nats.Conn) { c.connected() }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			c.state.Store(away)
			if err != nil {
				c.log.Warn("nats is away", slog.Any("error", err))
			}
		}),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			subject := ""
			if sub != nil {
				subject = sub.Subject
			}
			c.log.Warn("nats reports an error", slog.Any("error", err), slog.String("subject", subject))
		}),
		nats.ClosedHandler(func(*nats.Conn) { close(c.closed) }),
	}
}

func (c *Conn) connected() {
	c.state.Store(up)
	c.log.Info("connected to nats")
	c.mu.Lock()
	told := slices.Collect(maps.Values(c.onConnect))
	c.mu.Unlock()
	for _, fn := range told {
		fn()
	}
}

// NC is the connection of the NATS client library.
func (c *Conn) NC() *nats.Conn { return c.nc }

// JS is the JetStream context of the connection.
func (c *Conn) JS() jetstream.JetStream { return c.js }

// Connected says whether a server is reachable, as far as is known: one that hangs counts as
// reachable for a few seconds. It never waits.
func (c *Conn) Connected() bool { return c.state.Load() == up }

// OnConnect calls fn after every connection that is made from now on, subscriptions being in place
// again; the returned func stops that. fn must not block.
func (c *Conn) OnConnect(fn func()) (remove func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lastID++
	id := c.lastID
	c.onConnect[id] = fn
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.onConnect, id)
	}
}

// Ready answers nil when the server answers within ctx, which must have a deadline.
func (c *Conn) Ready(ctx context.Context) error {
	if !c.Connected() {
		return errors.New("nats is not connected")
	}
	if err := c.nc.FlushWithContext(ctx); err != nil {
		return fmt.Errorf("nats is not ready: %w", err)
	}
	return nil
}

// Close ends the connection after what is in flight was sent and handled, or after five seconds.
func (c *Conn) Close() {
	if err := c.nc.Drain(); err != nil {
		c.nc.Close() // not connected: there is nothing to drain
	}
	select {
	case <-c.closed:
	case <-time.After(drainTimeout + time.Second):
		c.nc.Close()
	}
}

// PublishOnce sends a message to JetStream and answers where the acknowledgement will arrive. Where no stream takes it that is
// told at once, and not after trying again, for which the caller has another way or a better time.
func (c *Conn) PublishOnce(msg *nats.Msg, opts ...jetstream.PublishOpt) (jetstream.PubAckFuture, error) {
	return c.js.PublishMsgAsync(msg, append(opts, jetstream.WithRetryAttempts(0))...)
}

// Acknowledged waits until JetStream has told where it put a message. The error is JetStream's, or that of ctx, and then nobody
// knows whether it has the message. What it has told is found also by who asks when ctx has ended.
func Acknowledged(ctx context.Context, sent jetstream.PubAckFuture) (*jetstream.PubAck, error) {
	select {
	case at := <-sent.Ok():
		return at, nil
	case err := <-sent.Err():
		return nil, err
	case <-ctx.Done():
	}
	select {
	case at := <-sent.Ok():
		return at, nil
	case err := <-sent.Err():
		return nil, err
	default:
		return nil, ctx.Err()
	}
}
