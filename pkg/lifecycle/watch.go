package lifecycle

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sentryagent/agentidp/pkg/natsx"
	"github.com/sentryagent/agentidp/pkg/telemetry"
)

// waiting is how many changes may wait for a watcher; one that is slower than that gets a gap.
const waiting = 16_384

// Watcher is told of changes, one at a time and in order. Gap means that changes may have been
// missed: all that is cached must go. Funcs that are nil are left out; none may block for long.
type Watcher struct {
	Agent      func(AgentChanged)
	Credential func(CredentialChanged)
	Gap        func()
}

// Watch tells w of every change from now on, in every replica that calls it, until ctx ends; then
// it returns nil. It waits for a NATS server that is away.
//
// It is a plain subscription to the stream's subjects and no consumer: nothing has to be declared,
// stored or acknowledged, so that a change arrives as early as it can. What such a subscription may
// miss (a lost connection, a receiver that is too slow) ends in a Gap.
func Watch(ctx context.Context, conn *natsx.Conn, tel *telemetry.Telemetry, w Watcher) error {
	v := &watch{Watcher: w, log: tel.Log, gaps: make(chan struct{}, 1), changes: make(chan *nats.Msg, waiting)}
	// Before the subscription: a connection that is lost in between must not go unnoticed.
	defer conn.OnConnect(v.missed)()
	sub, err := conn.NC().ChanSubscribe(natsx.LifecycleSubjects, v.changes)
	if err != nil {
		return fmt.Errorf("watch lifecycle: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	v.dropped = sub.Dropped
	if conn.Connected() {
		// Once the server has answered, the subscription is in place; what was cached before is not
		// covered by it.
		flush, cancel := context.WithTimeout(ctx, 5*time.Second)
		if err := conn.NC().FlushWithContext(flush); err != nil {
			v.log.WarnContext(ctx, "nats does not answer; lifecycle changes come after it does", slog.Any("error", err))
		}
		cancel()
	}
	v.missed()
	v.run(ctx)
	return nil
}

type watch struct {
	Watcher
	log     *slog.Logger
	gaps    chan struct{}
	changes chan *nats.Msg
	// dropped counts the changes that found no room in changes; lost is what was told of it.
	dropped func() (int, error)
	lost    int
}

// missed asks for a Gap; several before it is told are one.
func (v *watch) missed() {
	select {
	case v.gaps <- struct{}{}:
	default:
	}
}

func (v *watch) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-v.gaps:
			v.gap()
		case msg := <-v.changes:
			v.tell(ctx, msg)
			// Only a full channel loses changes, so whatever is lost shows here.
			if n, err := v.dropped(); err == nil && n != v.lost {
				v.log.WarnContext(ctx, "lifecycle changes came faster than they were handled", slog.Int("lost", n-v.lost))
				v.lost = n
				v.gap()
			}
		}
	}
}

func (v *watch) gap() {
	if v.Gap != nil {
		v.Gap()
	}
}

func (v *watch) tell(ctx context.Context, msg *nats.Msg) {
	var err error
	switch {
	case isAgent(msg.Subject):
		var change AgentChanged
		if change, err = parseAgent(msg.Subject, msg.Data); err == nil && v.Agent != nil {
			v.Agent(change)
		}
	case isCredential(msg.Subject):
		var change CredentialChanged
		if change, err = parseCredential(msg.Subject, msg.Data); err == nil && v.Credential != nil {
			v.Credential(change)
		}
	}
	if err != nil {
		// It says that something changed, and not what.
		v.log.ErrorContext(ctx, "lifecycle message cannot be read", slog.String("subject", msg.Subject), slog.Any("error", err))
		v.gap()
	}
}
