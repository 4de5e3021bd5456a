package intake

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

// The values of the label result.
const (
	resultStored    = "stored"
	resultDuplicate = "duplicate"
	resultDead      = "dead_letter"
	resultRetry     = "retry"
)

// The values of the label fault.
const (
	faultOtherKey = "other_key"
	faultTorn     = "torn"
)

// record makes one batch durable and settles its messages. The error is the
// recorder's: nothing is stored then, and all messages come again later.
func (in *Intake) record(ctx context.Context, batch []jetstream.Msg) error {
	deliveries := make([]trail.Delivery, len(batch))
	for i, message := range batch {
		deliveries[i] = delivery(message)
	}
	// A batch that was begun is brought to its end: the service is stopping, not
	// the database, and to stop here would only make another replica do it again.
	work, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordFor)
	defer cancel()
	verdicts, err := in.recorder.Record(work, deliveries)
	if err != nil {
		verdicts = make([]trail.Verdict, len(batch)) // all Retry
		in.countFault(err)
	}
	for i, message := range batch {
		in.settle(ctx, message, deliveries[i], verdicts[i])
	}
	return err
}

func (in *Intake) countFault(err error) {
	switch {
	case errors.Is(err, trail.ErrOtherKey):
		in.faults.WithLabelValues(faultOtherKey).Inc()
	case errors.Is(err, trail.ErrTorn):
		in.faults.WithLabelValues(faultTorn).Inc()
	}
}

func delivery(message jetstream.Msg) trail.Delivery {
	origin := trail.Origin{Subject: message.Subject()}
	if meta, err := message.Metadata(); err == nil {
		origin.Sequence, origin.PublishedAt = meta.Sequence.Stream, meta.Timestamp
	}
	return trail.Receive(origin, message.Data())
}

// settle tells JetStream. If it does not hear, the message comes again and ends
// as a duplicate.
func (in *Intake) settle(ctx context.Context, message jetstream.Msg, d trail.Delivery, verdict trail.Verdict) {
	var err error
	switch verdict {
	case trail.Stored:
		in.events.WithLabelValues(resultStored).Inc()
		err = message.Ack()
	case trail.Duplicate:
		in.events.WithLabelValues(resultDuplicate).Inc()
		err = message.Ack()
	case trail.Dead:
		in.events.WithLabelValues(resultDead).Inc()
		in.log.ErrorContext(ctx, "message of the audit stream kept as a dead letter",
			slog.Uint64("stream_sequence", d.Origin.Sequence), slog.String("subject", d.Origin.Subject))
		err = message.TermWithReason("kept as a dead letter")
	case trail.Retry:
		in.events.WithLabelValues(resultRetry).Inc()
		err = message.NakWithDelay(redelivery(message))
	}
	if err != nil {
		in.log.WarnContext(ctx, "audit stream did not take an acknowledgement",
			slog.Uint64("stream_sequence", d.Origin.Sequence), slog.Any("error", err))
	}
}

// redelivery is how long a message stays away that could not be stored this time.
func redelivery(message jetstream.Msg) time.Duration {
	meta, err := message.Metadata()
	if err != nil {
		return lastRetry
	}
	return delay(int(min(meta.NumDelivered, 100)))
}
