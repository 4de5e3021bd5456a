// Package journal makes events durable on the shortest way: acknowledged by
// JetStream, else stored in the outbox of this service, from where the relay
// brings them to JetStream later. An event that goes both ways keeps its id, so
// that it counts once. It must not report an event durable that only is on its way.
package journal

import (
	"context"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/time/rate"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/outbox"
	"github.com/sentryagent/agentidp/services/token/internal/issue"
)

const (
	// ackWait is how long the acknowledgement of JetStream is waited for.
	ackWait = 250 * time.Millisecond
	// storeWait bounds how long an event may take into the outbox.
	storeWait = 3 * time.Second
	// batchSize bounds one insert.
	batchSize = 500
	// queueSize is how many events may wait for their insert.
	queueSize = 4096
	// logEvery spares the log while NATS is away.
	logEvery = 10 * time.Second
)

// Stream is JetStream, as far as it is needed.
type Stream interface {
	// Connected says whether a server is reachable right now.
	Connected() bool
	// PublishMsgAsync sends, and answers where the acknowledgement will arrive.
	PublishMsgAsync(msg *nats.Msg, opts ...jetstream.PublishOpt) (jetstream.PubAckFuture, error)
}

// Store is the outbox.
type Store interface {
	// Append stores the messages in one transaction.
	Append(ctx context.Context, messages []outbox.Message) error
}

// Journal makes events durable. It is safe for concurrent use.
type Journal struct {
	stream Stream
	store  Store
	log    *slog.Logger
	queue  chan waiting
	logged rate.Sometimes
}

var _ issue.Journal = (*Journal)(nil)

// waiting is a message that waits for its insert.
type waiting struct {
	message outbox.Message
	done    chan error // takes one answer without blocking
}

// New makes a Journal; Run must run for events to get into the outbox.
func New(stream Stream, store Store, log *slog.Logger) *Journal {
	return &Journal{
		stream: stream, store: store, log: log,
		queue: make(chan waiting, queueSize), logged: rate.Sometimes{Interval: logEvery},
	}
}

// Publish sends the event, and answers a function that waits until it is durable.
func (j *Journal) Publish(ctx context.Context, event auditevent.Event) func() error {
	message, err := event.Message()
	if err != nil {
		return func() error { return err }
	}
	future, err := j.send(message)
	if err != nil {
		j.note(ctx, err)
		return j.enqueue(message)
	}
	sent := time.Now()
	return func() error { return j.await(ctx, future, message, sent) }
}

func (j *Journal) send(message outbox.Message) (jetstream.PubAckFuture, error) {
	if !j.stream.Connected() {
		return nil, nats.ErrConnectionClosed
	}
	msg := &nats.Msg{Subject: message.Subject, Data: message.Payload}
	return j.stream.PublishMsgAsync(msg, jetstream.WithMsgID(message.ID.String()))
}

func (j *Journal) await(ctx context.Context, future jetstream.PubAckFuture, message outbox.Message, sent time.Time) error {
	timer := time.NewTimer(ackWait - time.Since(sent))
	defer timer.Stop()
	select {
	case <-future.Ok():
		return nil
	case err := <-future.Err():
		j.note(ctx, err)
	case <-timer.C:
		j.note(ctx, nats.ErrTimeout)
	}
	return j.enqueue(message)()
}

func (j *Journal) note(ctx context.Context, err error) {
	j.logged.Do(func() {
		j.log.WarnContext(ctx, "events go to the outbox, jetstream does not take them", slog.Any("error", err))
	})
}

// enqueue hands the message to Run, and answers a function that waits for the insert.
func (j *Journal) enqueue(message outbox.Message) func() error {
	item := waiting{message: message, done: make(chan error, 1)}
	timer := time.NewTimer(storeWait)
	select {
	case j.queue <- item:
	case <-timer.C:
		return func() error { return apperr.Unavailable(context.DeadlineExceeded) }
	}
	return func() error {
		defer timer.Stop()
		select {
		case err := <-item.done:
			return err
		case <-timer.C:
			return apperr.Unavailable(context.DeadlineExceeded)
		}
	}
}

// Run stores what JetStream did not take, all that waits in one insert, until ctx
// is done and nothing waits any more.
func (j *Journal) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			for len(j.queue) > 0 {
				j.insert(ctx, <-j.queue)
			}
			return nil
		case first := <-j.queue:
			j.insert(ctx, first)
		}
	}
}

func (j *Journal) insert(ctx context.Context, first waiting) {
	batch := []waiting{first}
	for len(batch) < batchSize && len(j.queue) > 0 {
		batch = append(batch, <-j.queue)
	}
	messages := make([]outbox.Message, len(batch))
	for i, item := range batch {
		messages[i] = item.message
	}
	// Who waits for the insert is to have it, also while the service stops.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeWait)
	defer cancel()
	err := j.store.Append(ctx, messages)
	for _, item := range batch {
		item.done <- err
	}
}
