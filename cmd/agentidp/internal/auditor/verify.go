package auditor

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sentryagent/agentidp/pkg/auditlog"
)

// Online checks a running log: that its newest checkpoint goes on from the one kept, and, unless headOnly,
// every event from leaf cursor on. An error means that it could not be asked.
func Online(ctx context.Context, client *Client, trail *Trail, cursor int64, headOnly bool) error {
	signed, err := client.Checkpoint(ctx)
	if err != nil {
		return err
	}
	head, trusted := trail.Head(signed)
	if trusted && trail.kept != nil && head.Size > trail.kept.Size && trail.kept.Size > 0 {
		if err := connect(ctx, client, trail, head); err != nil {
			return err
		}
	}
	if headOnly {
		return nil
	}
	if trusted && head.Size >= cursor {
		trail.Anchor(head)
	}
	return client.Export(ctx, nil, cursor, trail.Line)
}

func connect(ctx context.Context, client *Client, trail *Trail, head auditlog.Checkpoint) error {
	kept := trail.kept.Checkpoint
	proof, err := client.Consistency(ctx, kept.Size, head.Size)
	if err != nil {
		return err
	}
	if proven := tlog.CheckTree(proof.Hashes, head.Size, head.Root, kept.Size, kept.Root) == nil; proven {
		trail.connected = true
	} else {
		trail.report.found(Forked, "no proof leads from the checkpoint of %d leaves kept from before to that of %d", kept.Size, head.Size)
	}
	return nil
}

// Proof checks that one event is in the log. eventID may be empty, where any event is meant.
func (t *Trail) Proof(p auditlog.Proof, eventID string) {
	head, trusted := t.Head([]byte(p.Checkpoint))
	t.report.Leaves++
	l := &line{LeafIndex: &p.LeafIndex, LeafHash: p.LeafHash, Event: []byte(p.Leaf)}
	event := l.about()
	finding := func(kind Kind, format string, args ...any) {
		t.report.add(Finding{Kind: kind, LeafIndex: p.LeafIndex, Through: p.LeafIndex, EventID: event.EventID, Detail: fmt.Sprintf(format, args...)})
	}
	hash := auditlog.HashLeaf([]byte(p.Leaf))
	switch {
	case eventID != "" && event.EventID != eventID:
		finding(Changed, "the proof is about this event, not about %s", eventID)
	case hash != p.LeafHash:
		finding(Changed, "its hash is %s, the one that was logged is %s", hash, p.LeafHash)
	case !trusted:
	case p.TreeSize != head.Size || tlog.CheckRecord(p.Hashes, head.Size, head.Root, p.LeafIndex, hash) != nil:
		finding(Added, "the proof does not lead to the signed root")
	default:
		t.report.Events++
	}
}

// LoadKey reads the public key of a log.
func LoadKey(text string) (note.Verifier, error) {
	verifier, err := note.NewVerifier(text)
	if err != nil {
		return nil, errors.New("not the public key of a log, as `agentidp audit keygen` prints it")
	}
	return verifier, nil
}

// OnlineProof checks one event of a running log: that it is in a tree which goes on from the checkpoint kept.
func OnlineProof(ctx context.Context, client *Client, trail *Trail, eventID string) error {
	proof, err := client.Proof(ctx, eventID)
	if err != nil {
		return err
	}
	trail.Proof(proof, eventID)
	if trail.signed != nil && trail.kept != nil && trail.newest.Size > trail.kept.Size && trail.kept.Size > 0 {
		return connect(ctx, client, trail, trail.newest)
	}
	return nil
}
