package natsx

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sentryagent/agentidp/pkg/idle"
)

// Names of the streams and the subjects they hold.
const (
	AuditStream       = "AUDIT"
	auditSubjects     = "audit.>"
	LifecycleStream   = "LIFECYCLE"
	LifecycleSubjects = "lifecycle.>"
	OnwardStream      = "AUDIT_LOG"
	onwardSubjects    = "auditlog.>"
)

const (
	// duplicateWindow is how long a Nats-Msg-Id is remembered: a relay that was killed after it
	// published is followed by another one well within it.
	duplicateWindow = 2 * time.Minute
	// onwardFor is how long a stored event stays in the stream for forwarders, at most.
	onwardFor      = 7 * 24 * time.Hour
	declareTimeout = 5 * time.Second
	firstRetry     = 200 * time.Millisecond
	lastRetry      = 5 * time.Second
)

// DeclareAudit makes or updates the AUDIT stream and tries again until it succeeded or ctx ended,
// whose error it then returns. Only the consumer of the stream calls it. A message stays in the
// stream until it is acknowledged, however long that takes, and goes then; a stream without room
// refuses new messages, so that they wait in their outbox.
func (c *Conn) DeclareAudit(ctx context.Context) error {
	return c.declare(ctx, jetstream.StreamConfig{
		Name:        AuditStream,
		Description: "Audit events on their way to the audit service.",
		Subjects:    []string{auditSubjects},
		Retention:   jetstream.WorkQueuePolicy,
		Discard:     jetstream.DiscardNew,
		Storage:     jetstream.FileStorage,
		Duplicates:  duplicateWindow,
		Replicas:    c.replicas,
	})
}

// DeclareLifecycle is DeclareAudit for the LIFECYCLE stream, which keeps the newest message of each
// subject for good: it is the state of every agent, not the history.
func (c *Conn) DeclareLifecycle(ctx context.Context) error {
	return c.declare(ctx, jetstream.StreamConfig{
		Name:              LifecycleStream,
		Description:       "What changed last about each agent and its credentials.",
		Subjects:          []string{LifecycleSubjects},
		Retention:         jetstream.LimitsPolicy,
		Discard:           jetstream.DiscardOld,
		MaxMsgsPerSubject: 1,
		Storage:           jetstream.FileStorage,
		Duplicates:        duplicateWindow,
		Replicas:          c.replicas,
	})
}

// DeclareOnward is DeclareAudit for the stream AUDIT_LOG, which carries what the audit service has stored to whoever
// collects it. The oldest messages give way to new ones: at maxBytes (≥ 1), or after seven days.
func (c *Conn) DeclareOnward(ctx context.Context, maxBytes int64) error {
	return c.declare(ctx, jetstream.StreamConfig{
		Name:        OnwardStream,
		Description: "Stored audit events in the order of the log, for those who forward them.",
		Subjects:    []string{onwardSubjects},
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardOld,
		MaxBytes:    maxBytes,
		MaxAge:      onwardFor,
		Storage:     jetstream.FileStorage,
		Duplicates:  duplicateWindow,
		Replicas:    c.replicas,
	})
}

func (c *Conn) declare(ctx context.Context, stream jetstream.StreamConfig) error {
	for wait := firstRetry; ; wait = min(2*wait, lastRetry) {
		err := c.declareOnce(ctx, stream)
		if err == nil {
			return nil
		}
		if c.Connected() { // without a connection there is nothing new to say
			c.log.WarnContext(ctx, "stream cannot be declared yet", slog.String("stream", stream.Name), slog.Any("error", err))
		}
		if ended := idle.For(ctx, wait); ended != nil {
			return fmt.Errorf("declare stream %s: %w (last: %w)", stream.Name, ended, err)
		}
	}
}

func (c *Conn) declareOnce(ctx context.Context, stream jetstream.StreamConfig) error {
	ctx, cancel := context.WithTimeout(ctx, declareTimeout)
	defer cancel()
	_, err := c.js.CreateOrUpdateStream(ctx, stream)
	return err
}
