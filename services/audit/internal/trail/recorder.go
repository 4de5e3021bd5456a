package trail

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sentryagent/agentidp/pkg/auditlog"
)

// MaxDeadPayload bounds the bytes of a dead letter that are kept, in bytes. It is
// the largest message NATS accepts unless configured otherwise, so as a rule the
// whole of it is kept.
const MaxDeadPayload = 1 << 20

// MaxPayload bounds what is looked at as an event, in bytes. A byte of a leaf is at
// most six of a payload, as in \u003c, so that only needless spaces make one larger
// that could be a leaf.
const MaxPayload = 6 * auditlog.MaxLeaf

// Origin is where in the audit stream an event came from.
type Origin struct {
	Sequence    uint64    // of the message
	PublishedAt time.Time // when the stream took it
	Subject     string
	Line        int // of the event in the message, from 0
}

// Delivery is what a message of the audit stream holds, or one line of it where it holds
// several events: an event, its leaf in the log and the leaf's hash, or why it is none.
type Delivery struct {
	Origin   Origin
	Event    Event     // meaningful only if Reject is empty
	Leaf     []byte    // likewise; often the payload itself
	LeafHash tlog.Hash // likewise
	Reject   string    // why it cannot be stored as an event
	Payload  []byte    // as received
}

// Receive reads what may be an event. What two readers could read in two ways, a field named
// twice for one or under another case, cannot be a leaf, and so is not an event either.
func Receive(origin Origin, payload []byte) Delivery {
	d := Delivery{Origin: origin, Payload: payload}
	if len(payload) > MaxPayload {
		d.Reject = fmt.Sprintf("cannot be a leaf of the log: more than %d bytes", MaxPayload)
		return d
	}
	leaf, unfit := auditlog.Leaf(payload)
	event, err := decode(payload, unfit == nil && bytes.Equal(leaf, payload))
	switch {
	case err != nil:
		d.Reject = err.Error()
		return d
	case unfit != nil:
		d.Reject = fmt.Sprintf("cannot be a leaf of the log: %v", unfit)
		return d
	case lookalike(leaf):
		d.Reject = "a field has the name of another but for its case"
		return d
	}
	d.Event, d.Leaf, d.LeafHash = event, leaf, auditlog.HashLeaf(leaf)
	return d
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

// Faults of the log that no other try repairs: an operator has to. A Recorder's error wraps them.
var (
	// ErrOtherKey tells that the log is signed with another key than this replica has.
	ErrOtherKey = errors.New("the log is signed with another key than AUDIT_LOG_KEY")
	// ErrTorn tells that head and tiles of the log are not of the same moment.
	ErrTorn = errors.New("the tiles of the log do not fit its head")
)

// Recorder makes deliveries durable.
type Recorder interface {
	// Record stores a batch in one transaction, each new event as the next leaf of
	// the log, and returns a verdict for each delivery, in order. An error means
	// that none of them is stored. One delivery that cannot be stored does not keep
	// the others from it.
	Record(ctx context.Context, batch []Delivery) ([]Verdict, error)
}
