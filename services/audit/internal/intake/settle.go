package intake

import (
	"context"
	"errors"
	"log/slog"
	"slices"
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

// record makes one batch durable within the given time and settles its messages. The
// error is the recorder's: nothing is stored then, and all messages come again later.
func (in *Intake) record(ctx context.Context, batch []parcel, within time.Duration) error {
	deliveries := unpack(batch)
	// A batch that was begun is brought to its end: the service is stopping, not
	// the database, and to stop here would only make another replica do it again.
	work, cancel := context.WithTimeout(context.WithoutCancel(ctx), within)
	defer cancel()
	verdicts, err := in.recorder.Record(work, deliveries)
	if err != nil {
		verdicts = make([]trail.Verdict, len(deliveries)) // all Retry
		in.countFault(err)
	}
	at := 0
	for _, p := range batch {
		next := at + len(p.payloads)
		in.settle(ctx, p, deliveries[at:next], verdicts[at:next])
		at = next
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

// unpack is what the messages hold, in their order.
func unpack(batch []parcel) []trail.Delivery {
	events := 0
	for _, p := range batch {
		events += len(p.payloads)
	}
	deliveries := make([]trail.Delivery, 0, events)
	for _, p := range batch {
		origin := trail.Origin{Subject: p.Subject()}
		if meta, err := p.Metadata(); err == nil {
			origin.Sequence, origin.PublishedAt = meta.Sequence.Stream, meta.Timestamp
		}
		for line, payload := range p.payloads {
			origin.Line = line
			deliveries = append(deliveries, trail.Receive(origin, payload))
		}
	}
	return deliveries
}

// settle tells JetStream what became of a message. If it does not hear, the message
// comes again and ends as a duplicate. Of a message with several events all come again
// for the sake of one; those that were stored are duplicates then.
func (in *Intake) settle(ctx context.Context, p parcel, deliveries []trail.Delivery, verdicts []trail.Verdict) {
	again := slices.Contains(verdicts, trail.Retry)
	for i, verdict := range verdicts {
		if verdict == trail.Dead {
			if again {
				continue // it will be told of the last time
			}
			origin := deliveries[i].Origin
			in.log.ErrorContext(ctx, "event of the audit stream kept as a dead letter",
				slog.Uint64("stream_sequence", origin.Sequence), slog.Int("line", origin.Line), slog.String("subject", origin.Subject))
		}
		in.events.WithLabelValues(result(verdict)).Inc()
	}
	var err error
	switch {
	case again:
		err = p.NakWithDelay(redelivery(p))
	case slices.Contains(verdicts, trail.Dead):
		err = p.TermWithReason("kept as a dead letter")
	default:
		err = p.Ack()
	}
	if err != nil {
		in.log.WarnContext(ctx, "audit stream did not take an acknowledgement",
			slog.Uint64("stream_sequence", deliveries[0].Origin.Sequence), slog.Any("error", err))
	}
}

func result(verdict trail.Verdict) string {
	switch verdict {
	case trail.Stored:
		return resultStored
	case trail.Duplicate:
		return resultDuplicate
	case trail.Dead:
		return resultDead
	case trail.Retry:
	}
	return resultRetry
}

// redelivery is how long a message stays away that could not be stored this time.
func redelivery(message jetstream.Msg) time.Duration {
	meta, err := message.Metadata()
	if err != nil {
		return lastRetry
	}
	return delay(int(min(meta.NumDelivered, 100)))
}
