package main

import (
	"bytes"
	"context"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/idle"
)

const (
	// poisonEvery is how often something goes into the stream that is no new event.
	poisonEvery = time.Second
	// tooLarge is more than a leaf of the log may hold.
	tooLarge = 100 << 10
)

// poisoner publishes what the trail must not take, and events that are in it already under new message ids, as a relay
// does that was away for longer than the stream remembers ids. Each of the former must be among the dead letters, once;
// the latter must leave no trace.
type poisoner struct {
	acknowledged map[string]bool // by the marker in the payload; false where nobody is sure
	repeated     int
}

// poison until ctx ends.
func (r *run) poison(ctx context.Context) {
	r.poisoner.acknowledged = map[string]bool{}
	random := newRandom(r.seed, poisonStream)
	for idle.For(ctx, poisonEvery) == nil {
		marker := "poison-" + uuid.NewString()
		event := fmt.Sprintf(`"eventId":%q,"timestamp":%q,"action":"token.issued","outcome":"success","service":"fault","metadata":{}`,
			uuid.NewString(), time.Now().UTC().Format(time.RFC3339Nano))
		payloads := []string{
			marker + " is no JSON",
			fmt.Sprintf(`{"marker":%q,"schemaVersion":99,%s}`, marker, event),
			fmt.Sprintf(`{"marker":%q,"schemaVersion":1}`, marker),
			fmt.Sprintf(`{"marker":%q,"schemaVersion":1,%s,"padding":%q}`, marker, event, strings.Repeat("x", tooLarge)),
			fmt.Sprintf(`{"marker":%q,"marker":"twice","schemaVersion":1,%s}`, marker, event),
		}
		subject := "audit.fault.poison"
		var payload []byte
		switch choice := random.IntN(len(payloads) + 2); choice {
		case len(payloads):
			r.repeat(ctx)
			continue
		case len(payloads) + 1:
			subject, payload = auditevent.BatchSubject("fault"), r.among([]byte(payloads[0]))
		default:
			payload = []byte(payloads[choice])
		}
		err := r.rig.Publish(ctx, subject, payload, marker)
		r.poisoner.acknowledged[marker] = err == nil
	}
}

// among puts poison between two events that were published before, which are in the trail or on their way.
func (r *run) among(poison []byte) []byte {
	lines := [][]byte{poison}
	if again := r.tap.any(); again != nil {
		lines = [][]byte{again.payload, poison, again.payload}
	}
	return auditevent.Join(lines)
}

// repeat publishes an event again, by itself.
func (r *run) repeat(ctx context.Context) {
	again := r.tap.any()
	if again == nil {
		return
	}
	if r.rig.Publish(ctx, again.subject, again.payload, uuid.NewString()) == nil {
		r.poisoner.repeated++
	}
}

// buried holds the dead letters against what was published for them.
func (p *poisoner) buried(letters []letter) []finding {
	form := regexp.MustCompile(`poison-[0-9a-f-]{36}`)
	times := map[string]int{}
	var found []finding
	for _, l := range letters {
		marker := string(form.Find(l.payload[:min(len(l.payload), 100)]))
		if _, ours := p.acknowledged[marker]; !ours {
			found = append(found, finding{what: fmt.Sprintf("a dead letter of %s: %s: %s", l.subject, l.reason, bytes.ToValidUTF8(l.payload, nil))})
		}
		times[marker]++
	}
	for marker, sure := range p.acknowledged {
		if n := times[marker]; n > 1 || sure && n == 0 {
			found = append(found, finding{what: fmt.Sprintf("%s is among the dead letters %d times", marker, n), requests: []string{marker}})
		}
	}
	return found
}

// letter is a dead one.
type letter struct {
	subject, reason string
	payload         []byte
}
