// Package journal makes events durable on the shortest way: acknowledged by
// JetStream, else stored in the outbox of this service, from where the relay
// brings them to JetStream later. Events that come while a message is on its way
// leave together, as the next. An event that goes both ways keeps its id, so
// that it counts once. It must not report an event durable that only is on its way.
package journal

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/time/rate"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/natsx"
	"github.com/sentryagent/agentidp/pkg/outbox"
	"github.com/sentryagent/agentidp/pkg/together"
	"github.com/sentryagent/agentidp/services/token/internal/issue"
)

const (
	// ackWait is how long an event waits for the acknowledgement of JetStream.
	ackWait = 250 * time.Millisecond
	// messageBytes bounds a message of several events: it is to be far smaller than the
	// 1 MiB that a server takes unless told otherwise.
	messageBytes = 256 << 10
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
	// PublishOnce sends, and answers where the acknowledgement will arrive.
	PublishOnce(msg *nats.Msg, opts ...jetstream.PublishOpt) (jetstream.PubAckFuture, error)
}

// Store is the outbox.
type Store interface {
	// Append stores the messages in one transaction.
	Append(ctx context.Context, messages []outbox.Message) error
}

// Journal makes events durable. It is safe for concurrent use.
type Journal struct {
	stream  Stream
	subject string // of messages of several events
	trips   *together.Trips[outbox.Message, error]
	store   Store
	log     *slog.Logger
	queue   chan waiting
	logged  rate.Sometimes
}

var _ issue.Journal = (*Journal)(nil)

// waiting is a message that waits for its insert.
type waiting struct {
	message outbox.Message
	done    chan error // takes one answer without blocking
}

// New makes a Journal for the events of the named service; Run must run for events to get into the outbox.
func New(service string, stream Stream, store Store, log *slog.Logger) *Journal {
	j := &Journal{
		stream: stream, subject: auditevent.BatchSubject(service), store: store, log: log,
		queue: make(chan waiting, queueSize), logged: rate.Sometimes{Interval: logEvery},
	}
	// One message at a time: with more, each would carry fewer events, which docs/adr/0017 has measured.
	j.trips = together.New(together.Config{UnderWay: 1, Most: auditevent.MaxBatch, Timeout: ackWait}, j.carry)
	return j
}

// Publish sends the event, and answers a function that waits until it is durable.
func (j *Journal) Publish(ctx context.Context, event auditevent.Event) func() error {
	message, err := event.Message()
	if err != nil {
		return func() error { return err }
	}
	if !j.stream.Connected() {
		j.note(ctx, nats.ErrConnectionClosed)
		return j.enqueue(message)
	}
	patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), ackWait)
	wait := j.trips.Begin(patience, message)
	return func() error {
		defer cancel()
		refused, lost := wait()
		if err := cmp.Or(lost, refused); err != nil {
			j.note(ctx, err)
			return j.enqueue(message)()
		}
		return nil
	}
}

// carry publishes the events in as few messages as hold them, and answers the error of each.
func (j *Journal) carry(ctx context.Context, events []outbox.Message) []error {
	type sent struct {
		events int
		future jetstream.PubAckFuture
		err    error
	}
	var messages []sent
	for rest := events; len(rest) > 0; {
		n := fitting(rest)
		msg, opts := j.message(rest[:n])
		future, err := j.stream.PublishOnce(msg, opts...)
		messages = append(messages, sent{n, future, err})
		rest = rest[n:]
	}
	errs := make([]error, 0, len(events))
	for _, m := range messages {
		if m.err == nil {
			_, m.err = natsx.Acknowledged(ctx, m.future)
		}
		errs = append(errs, slices.Repeat([]error{m.err}, m.events)...)
	}
	return errs
}

// fitting is how many of the events, one or more, go into one message.
func fitting(events []outbox.Message) int {
	bytes := 0
	for n, event := range events {
		if bytes += len(event.Payload); n > 0 && bytes > messageBytes {
			return n
		}
	}
	return len(events)
}

// message is how the events are published. One that is alone goes as the relay sends it: should it go that way as well,
// the stream knows it by its id. The audit service knows each event, whatever it came with.
func (j *Journal) message(events []outbox.Message) (*nats.Msg, []jetstream.PublishOpt) {
	if len(events) == 1 {
		alone := events[0]
		return &nats.Msg{Subject: alone.Subject, Data: alone.Payload}, []jetstream.PublishOpt{jetstream.WithMsgID(alone.ID.String())}
	}
	payloads := make([][]byte, len(events))
	for i, event := range events {
		payloads[i] = event.Payload
	}
	return &nats.Msg{Subject: j.subject, Data: auditevent.Join(payloads)}, nil
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
