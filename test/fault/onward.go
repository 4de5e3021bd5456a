package main

import (
	"bytes"
	"context"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sentryagent/agentidp/pkg/auditlog"
)

// onwardStream is where the audit service publishes what it has stored, for those who forward it.
const onwardStream = "AUDIT_LOG"

// onwardBytes are more than the stream needs for hours of load, so that it gives nothing away.
const onwardBytes = 1 << 30

// onward is what the stream for forwarders holds, against the leaves there are.
type onward struct {
	leaves   *leaves
	seen     map[int64]bool
	messages int
	found    []finding
}

// onward reads the whole stream.
func (r *run) onward(ctx context.Context, log *leaves) ([]finding, error) {
	o := &onward{leaves: log, seen: map[int64]bool{}}
	err := r.forwarded(ctx, o.take)
	r.say("%d messages for %d leaves in the stream %s", o.messages, len(o.seen), onwardStream)
	return append(o.found, o.missing()...), err
}

// forwarded calls take for each message there is now, in their order, and gives up after settleFor.
func (r *run) forwarded(ctx context.Context, take func(subject string, header nats.Header, data []byte)) error {
	unread := func(err error) error { return fmt.Errorf("read the stream %s: %w", onwardStream, err) }
	stream, err := r.rig.Stream(ctx, onwardStream)
	if err != nil {
		return unread(err)
	}
	ctx, cancel := context.WithTimeout(ctx, settleFor)
	defer cancel()
	state := stream.CachedInfo().State
	if state.Msgs == 0 {
		return nil
	}
	consumer, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{})
	if err != nil {
		return unread(err)
	}
	messages, err := consumer.Messages()
	if err != nil {
		return unread(err)
	}
	defer messages.Stop()
	for {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return unread(err)
		}
		about, err := m.Metadata()
		if err != nil {
			return unread(err)
		}
		take(m.Subject(), m.Headers(), m.Data())
		if about.Sequence.Stream >= state.LastSeq {
			return nil
		}
	}
}

// take a message. A leaf may come again, after a failure, but as it is.
func (o *onward) take(subject string, header nats.Header, data []byte) {
	o.messages++
	index, err := strconv.ParseInt(header.Get("Audit-Leaf-Index"), 10, 64)
	e, there := o.leaves.holders[index]
	if err != nil || !there {
		o.found = append(o.found, finding{what: fmt.Sprintf("onward goes what no event is: %s %v %s", subject, header, data)})
		return
	}
	o.seen[index] = true
	if wrong := o.unlike(e, index, subject, header, data); wrong != "" {
		o.found = append(o.found, wrongEvent(e, fmt.Sprintf("leaf %d goes onward with %s", index, wrong)))
	}
}

// unlike says how a message differs from the event that has its leaf index, "" if it does not.
func (o *onward) unlike(e event, index int64, subject string, header nats.Header, data []byte) string {
	leaf, err := auditlog.Leaf(e.payload)
	service, _ := e.member("service").(string)
	switch {
	case err != nil || !bytes.Equal(leaf, data):
		return "another content: " + string(data)
	case header.Get("Audit-Leaf-Hash") != o.leaves.hashes[index].String():
		return "another hash: " + header.Get("Audit-Leaf-Hash")
	case header.Get(nats.MsgIdHdr) != e.id:
		return "another id: " + header.Get(nats.MsgIdHdr)
	case subject != "auditlog."+service+"."+e.action:
		return "another subject: " + subject
	}
	return ""
}

// missing are the leaves that no message holds.
func (o *onward) missing() []finding {
	var found []finding
	for index, e := range o.leaves.holders {
		if !o.seen[index] {
			found = append(found, wrongEvent(e, fmt.Sprintf("leaf %d did not go onward", index)))
		}
	}
	return found
}

// behind is how many leaves have not gone onward yet, as the audit service says itself.
func (r *run) behind(ctx context.Context) (leaves int64, err error) {
	err = r.rig.DB().QueryRow(ctx, "SELECT tree.size - next_leaf FROM audit.tree, audit.cursors WHERE name = 'onward'").Scan(&leaves)
	if err != nil {
		return 0, fmt.Errorf("look how far the events went onward: %w", err)
	}
	return leaves, nil
}
