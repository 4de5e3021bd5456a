package auditor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sentryagent/agentidp/pkg/auditlog"
)

// Online checks a running log: that its newest checkpoint goes on from the one kept, and, unless headOnly,
// every event from leaf cursor on. An error means that it could not be asked.
func Online(ctx context.Context, client *Client, trail *Trail, cursor int64, headOnly bool) error {
	trail.online = true
	signed, err := client.Checkpoint(ctx)
	if err != nil {
		return err
	}
	head, trusted := trail.Head(signed)
	if err := connect(ctx, client, trail, head, trusted); err != nil {
		return err
	}
	if headOnly {
		return nil
	}
	if trusted && head.Size >= cursor {
		trail.Anchor(head)
	}
	trail.refuse, trail.begin = true, cursor
	use := func(_ []byte, l *line) error { return trail.line(l) }
	if err := client.export(ctx, nil, cursor, use); err != nil {
		return err
	}
	for range behind { // another replica answered, which had not heard of the head yet
		if !trusted || !trail.started || trail.next >= head.Size {
			break
		}
		if err := client.pause(ctx, time.Second); err != nil {
			return err
		}
		if err := client.export(ctx, nil, trail.next, use); err != nil {
			return err
		}
	}
	return nil
}

// behind is how often the leaves up to the head are asked for once more.
const behind = 2

// connect asks for the proof that a head goes on from the checkpoint kept, if there is something to prove.
func connect(ctx context.Context, client *Client, trail *Trail, head auditlog.Checkpoint, trusted bool) error {
	if !trusted || trail.kept == nil || head.Size <= trail.kept.Size || trail.kept.Size == 0 {
		return nil
	}
	kept := *trail.kept
	proof, err := client.Consistency(ctx, kept.Size, head.Size)
	if err != nil {
		return err
	}
	if tlog.CheckTree(proof.Hashes, head.Size, head.Root, kept.Size, kept.Root) == nil {
		trail.roots.connect(kept.Size, head.Size)
		return nil
	}
	trail.report.found(Forked, "no proof leads from the checkpoint of %d leaves kept from before to that of %d", kept.Size, head.Size)
	trail.roots.bySize[kept.Size].wrong = true
	return nil
}

// Proof checks that one event is in the log. eventID may be uuid.Nil, where any event is meant.
func (t *Trail) Proof(p auditlog.Proof, eventID uuid.UUID) {
	t.single = true
	head, trusted := t.open([]byte(p.Checkpoint))
	t.report.Leaves++
	l := &line{LeafIndex: &p.LeafIndex, LeafHash: p.LeafHash, Event: []byte(p.Leaf)}
	event := l.about()
	finding := func(kind Kind, format string, args ...any) {
		t.report.add(Finding{Kind: kind, LeafIndex: p.LeafIndex, Through: p.LeafIndex, EventID: event.EventID, Detail: fmt.Sprintf(format, args...)})
	}
	hash := auditlog.HashLeaf([]byte(p.Leaf))
	id, err := uuid.Parse(event.EventID)
	switch {
	case eventID != uuid.Nil && (err != nil || id != eventID):
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
func OnlineProof(ctx context.Context, client *Client, trail *Trail, eventID uuid.UUID) error {
	trail.online = true
	proof, err := client.Proof(ctx, eventID)
	if err != nil {
		return err
	}
	trail.Proof(proof, eventID)
	head, _, err := auditlog.Open([]byte(proof.Checkpoint), trail.log)
	return connect(ctx, client, trail, head, err == nil)
}
