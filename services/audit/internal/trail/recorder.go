package trail

import (
	"context"
	"time"
)

// MaxDeadPayload bounds the bytes of a dead letter that are kept, in bytes. It is
// the largest message NATS accepts unless configured otherwise, so as a rule the
// whole of it is kept.
const MaxDeadPayload = 1 << 20

// Origin is where in the audit stream a message came from.
type Origin struct {
	Sequence    uint64
	PublishedAt time.Time // when the stream took it
	Subject     string
}

// Delivery is one message of the audit stream: an event, or why it is none.
type Delivery struct {
	Origin  Origin
	Event   Event  // meaningful only if Reject is empty
	Reject  string // why the message cannot be stored as an event
	Payload []byte // as received
}

// Verdict is what became of one delivery.
type Verdict int

// The verdicts. The zero value is the careful one: a delivery nobody decided
// about is delivered again.
const (
	Retry     Verdict = iota // not stored for a reason that may pass; to be delivered again
	Stored                   // the event is durable now
	Duplicate                // the event was durable before
	Dead                     // kept as a dead letter
)

// Recorder makes deliveries durable.
type Recorder interface {
	// Record stores a batch in one transaction and returns a verdict for each
	// delivery, in order. An error means that none of them is stored. One
	// delivery that cannot be stored does not keep the others from it.
	Record(ctx context.Context, batch []Delivery) ([]Verdict, error)
}
