package onward

import (
	"context"
	"fmt"
	"strconv"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sentryagent/agentidp/pkg/natsx"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

// Headers of a message, besides Nats-Msg-Id, which is the event's id.
const (
	HeaderLeafIndex = "Audit-Leaf-Index"
	HeaderLeafHash  = "Audit-Leaf-Hash" // base64
)

// leaf is an event as it is published: its leaf, byte for byte.
type leaf struct {
	index   int64
	id      uuid.UUID
	subject string
	hash    tlog.Hash
	text    []byte
}

// leafOf is the leaf of an event that was not rejected.
func leafOf(index int64, d trail.Delivery) leaf {
	return leaf{
		index: index, id: d.Event.ID, subject: "auditlog." + d.Event.Service + "." + d.Event.Action,
		hash: d.LeafHash, text: d.Leaf,
	}
}

func (l leaf) message() *nats.Msg {
	return &nats.Msg{
		Subject: l.subject,
		Header: nats.Header{
			jetstream.MsgIDHeader: {l.id.String()},
			HeaderLeafIndex:       {strconv.FormatInt(l.index, 10)},
			HeaderLeafHash:        {l.hash.String()},
		},
		Data: l.text,
	}
}

// publish sends leaves and returns once the stream has all of them. What was sent
// before a failure comes again, and is recognised by its id.
func (p *Publisher) publish(ctx context.Context, leaves []leaf) error {
	whole, err := p.publishAtOnce(ctx, leaves)
	if err != nil || whole {
		return err
	}
	return p.publishEach(ctx, leaves)
}

// publishAtOnce has only the first and the last leaf acknowledged. The stream takes what
// comes on one connection in its order: so it has those between them if as many numbers of
// its sequence lie between theirs. Otherwise, as where a leaf was there before or something
// was refused, whole is false. All others cost neither side an acknowledgement.
func (p *Publisher) publishAtOnce(ctx context.Context, leaves []leaf) (whole bool, err error) {
	if len(leaves) <= 2 {
		return false, nil
	}
	end := len(leaves) - 1
	first, err := p.send(leaves[0])
	if err != nil {
		return false, err
	}
	between := uint64(0)
	for _, l := range leaves[1:end] {
		if err := p.Conn.NC().PublishMsg(l.message()); err != nil {
			return false, fmt.Errorf("publish leaf %d: %w", l.index, err)
		}
		between++
	}
	last, err := p.send(leaves[end])
	if err != nil {
		return false, err
	}
	from, err := taken(ctx, first)
	if err != nil {
		return false, err
	}
	to, err := taken(ctx, last)
	if err != nil {
		return false, err
	}
	fresh := !from.Duplicate && !to.Duplicate
	return fresh && to.Sequence == from.Sequence+between+1, nil
}

// publishEach has each leaf acknowledged.
func (p *Publisher) publishEach(ctx context.Context, leaves []leaf) error {
	acks := make([]jetstream.PubAckFuture, len(leaves))
	for i, l := range leaves {
		var err error
		if acks[i], err = p.send(l); err != nil {
			return err
		}
	}
	for _, ack := range acks {
		if _, err := taken(ctx, ack); err != nil {
			return err
		}
	}
	return nil
}

func (p *Publisher) send(l leaf) (jetstream.PubAckFuture, error) {
	ack, err := p.Conn.PublishOnce(l.message())
	if err != nil {
		return nil, fmt.Errorf("publish leaf %d: %w", l.index, err)
	}
	return ack, nil
}

// taken waits until the stream has told where it put a message.
func taken(ctx context.Context, ack jetstream.PubAckFuture) (*jetstream.PubAck, error) {
	at, err := natsx.Acknowledged(ctx, ack)
	if err != nil {
		return nil, fmt.Errorf("publish: %w", err)
	}
	return at, nil
}
