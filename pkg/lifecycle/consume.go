package lifecycle

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sentryagent/agentidp/pkg/idle"
	"github.com/sentryagent/agentidp/pkg/natsx"
	"github.com/sentryagent/agentidp/pkg/telemetry"
)

const (
	// handleTimeout is how long one change may take; JetStream gives it to another replica after ackWait.
	handleTimeout = 20 * time.Second
	ackWait       = 30 * time.Second
	firstRetry    = 250 * time.Millisecond
	lastRetry     = 15 * time.Second
	setUpRetry    = time.Second
	setUpTimeout  = 5 * time.Second
	// A pull that hears nothing for two heartbeats is given up and made again.
	pullSize   = 64
	pullExpiry = 10 * time.Second
	heartbeat  = time.Second
)

// ConsumeAgents hands every agent's newest state to handle, from the beginning of the stream on, in
// one of the replicas that share the durable name; again after a delay when handle failed. handle
// may see a state more than once, and must not mind an older one after a newer one. ConsumeAgents
// declares the stream, waits for a NATS server that is away, and returns nil once ctx has ended.
func ConsumeAgents(ctx context.Context, conn *natsx.Conn, tel *telemetry.Telemetry, durable string, handle func(context.Context, AgentChanged) error) error {
	c := &consumer{conn: conn, log: tel.Log.With(slog.String("consumer", durable)), durable: durable, handle: handle}
	for ctx.Err() == nil {
		if err := c.consume(ctx); err != nil && ctx.Err() == nil {
			c.log.WarnContext(ctx, "lifecycle consumer starts again", slog.Any("error", err))
			_ = idle.For(ctx, setUpRetry)
		}
	}
	return nil
}

type consumer struct {
	conn    *natsx.Conn
	log     *slog.Logger
	durable string
	handle  func(context.Context, AgentChanged) error
}

// consume makes the durable consumer, if it is not there, and works until something breaks: a
// server that lost its data lost the consumer too, so it is made again then.
func (c *consumer) consume(ctx context.Context) error {
	if err := c.conn.DeclareLifecycle(ctx); err != nil {
		return err
	}
	setUp, cancel := context.WithTimeout(ctx, setUpTimeout)
	defer cancel()
	durable, err := c.conn.JS().CreateOrUpdateConsumer(setUp, natsx.LifecycleStream, jetstream.ConsumerConfig{
		Durable:       c.durable,
		FilterSubject: agentPrefix + "*",
		DeliverPolicy: jetstream.DeliverAllPolicy,
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       ackWait,
		MaxDeliver:    -1,
	})
	if err != nil {
		return fmt.Errorf("make the consumer %s: %w", c.durable, err)
	}
	messages, err := durable.Messages(jetstream.PullMaxMessages(pullSize), jetstream.PullExpiry(pullExpiry),
		jetstream.PullHeartbeat(heartbeat), jetstream.WithMessagesErrOnMissingHeartbeat(true))
	if err != nil {
		return fmt.Errorf("read from %s: %w", c.durable, err)
	}
	defer messages.Stop()
	for {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return fmt.Errorf("read from %s: %w", c.durable, err)
		}
		c.one(ctx, msg)
	}
}

func (c *consumer) one(ctx context.Context, msg jetstream.Msg) {
	change, err := parseAgent(msg.Subject(), msg.Data())
	if err != nil {
		c.log.ErrorContext(ctx, "lifecycle message cannot be read and is put aside", slog.String("subject", msg.Subject()), slog.Any("error", err))
		c.report(ctx, msg.Term())
		return
	}
	work, cancel := context.WithTimeout(ctx, handleTimeout)
	defer cancel()
	if err := c.handle(work, change); err != nil {
		delay := retryDelay(msg)
		if ctx.Err() == nil {
			c.log.WarnContext(ctx, "lifecycle change is tried again", slog.Any("agent_id", change.AgentID), slog.String("delay", delay.String()), slog.Any("error", err))
		}
		c.report(ctx, msg.NakWithDelay(delay))
		return
	}
	c.report(ctx, msg.Ack())
}

// report logs an acknowledgement that could not be sent; the message comes again then.
func (c *consumer) report(ctx context.Context, err error) {
	if err != nil {
		c.log.WarnContext(ctx, "lifecycle message could not be acknowledged", slog.Any("error", err))
	}
}

// retryDelay doubles with every delivery.
func retryDelay(msg jetstream.Msg) time.Duration {
	meta, err := msg.Metadata()
	if err != nil {
		return lastRetry
	}
	delay := firstRetry
	for n := uint64(1); n < meta.NumDelivered && delay < lastRetry; n++ {
		delay *= 2
	}
	return min(delay, lastRetry)
}
