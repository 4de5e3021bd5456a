package auditor

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sentryagent/agentidp/pkg/auditlog"
)

// Trail checks an export as it comes by, in one pass: in memory are the frontier of the tree, 24 bytes for
// each event, and what was found. Give it the parts of an export in order, then ask for the report.
type Trail struct {
	log       note.Verifier
	witnesses []note.Verifier
	known     *Hashes // nil without
	report    *Report

	tree      *auditlog.Frontier // of the leaves read so far; nil before the first, and where it cannot be known any more
	started   bool
	next      int64 // the leaf that has to come now
	anchors   []*anchor
	kept      *anchor
	connected bool // kept is a beginning of newest, as a proof has shown
	newest    auditlog.Checkpoint
	signed    []byte // the note of newest, nil before the first

	part part
	rows rows
	seen map[string]bool // witnesses that signed a checkpoint
}

// part is the export that is being read: what its first and last line say.
type part struct {
	open       bool // a first line without a last
	checkpoint auditlog.Checkpoint
	trusted    bool // the checkpoint is signed
	filtered   bool
	last       int64 // leaf of the line before
	unproven   int64 // lines of a filtered export without a proof
}

// anchor is a signed root to be met when the tree has its size.
type anchor struct {
	auditlog.Checkpoint
	before bool // kept from an earlier run
	met    bool
}

// NewTrail checks what the log with this key signed. The witnesses are those whose signatures are told of.
func NewTrail(log note.Verifier, witnesses ...note.Verifier) *Trail {
	return &Trail{log: log, witnesses: witnesses, report: newReport(), rows: newRows(), seen: map[string]bool{}}
}

// Line takes one line of an export.
func (t *Trail) Line(raw []byte) error {
	l, err := parse(raw)
	if err != nil || l == nil {
		return err
	}
	return t.line(l)
}

// Keep says which checkpoint was believed before. It is for before the first Read.
func (t *Trail) Keep(c auditlog.Checkpoint) {
	t.report.Kept = c.Size
	t.kept = &anchor{Checkpoint: c, before: true, met: c.Size == 0}
	t.anchors = append(t.anchors, t.kept)
}

// Compare names the leaf hashes that were seen before, and takes on the new ones.
func (t *Trail) Compare(known *Hashes) { t.known = known }

// Head takes a signed checkpoint, and tells whether the log signed it. The newest one counts.
func (t *Trail) Head(signed []byte) (auditlog.Checkpoint, bool) {
	c, opened, err := auditlog.Open(signed, t.log, t.witnesses...)
	if err != nil {
		t.report.found(Unsigned, "a checkpoint: %v", err)
		return auditlog.Checkpoint{}, false
	}
	if t.signed != nil && c.Size < t.newest.Size {
		t.report.found(Rollback, "a checkpoint of %d leaves comes after one of %d", c.Size, t.newest.Size)
		return c, true
	}
	t.newest, t.signed = c, signed
	t.report.Origin, t.report.TreeSize, t.report.Root = c.Origin, c.Size, c.Root.String()
	for _, witness := range t.witnesses {
		for _, sig := range opened.Sigs {
			if at, err := auditlog.CosignedAt(sig); err == nil && sig.Name == witness.Name() && sig.Hash == witness.KeyHash() {
				t.report.Witnesses = append(t.report.Witnesses, Witnessed{Name: sig.Name, At: at.Format(time.RFC3339), TreeSize: c.Size})
				t.seen[witness.Name()] = true
			}
		}
	}
	return c, true
}

// Anchor adds a checkpoint that the log signed, apart from an export: its root has to be met too.
func (t *Trail) Anchor(c auditlog.Checkpoint) { t.anchors = append(t.anchors, &anchor{Checkpoint: c}) }

// absent tells which witnesses signed nothing of what was read.
func (t *Trail) absent() {
	for _, witness := range t.witnesses {
		if !t.seen[witness.Name()] {
			t.report.found(Unproven, "the witness %s has signed no checkpoint that is here", witness.Name())
		}
	}
}

// Read takes an export, or the next part of one. An error means that it could not be read; what is wrong
// with what could is in the report.
func (t *Trail) Read(r io.Reader) error {
	if t.part.open {
		t.cutOff()
	}
	t.part = part{}
	return eachLine(r, t.line)
}

func (t *Trail) line(l *line) error {
	switch {
	case l.Checkpoint != nil:
		return t.header(l)
	case !t.part.open:
		return fmt.Errorf("%w: a leaf or an end without a beginning", errNotExport)
	case l.LeafIndex != nil && t.part.filtered:
		t.picked(l)
	case l.LeafIndex != nil:
		return t.leaf(l)
	case l.Cursor != nil:
		t.trailer(l)
	default:
		return errNotExport
	}
	return nil
}

func (t *Trail) header(l *line) error {
	if t.part.open { // a program that resumes writes all parts into one file
		t.cutOff()
	}
	var c auditlog.Checkpoint
	trusted := false
	if *l.Checkpoint != "" || l.TreeSize != 0 { // a log without leaves may have signed nothing yet
		c, trusted = t.Head([]byte(*l.Checkpoint))
	}
	if !trusted {
		c.Size = l.TreeSize
	}
	t.part = part{open: true, checkpoint: c, trusted: trusted, filtered: l.Filtered, last: -1}
	if c.Size != l.TreeSize {
		t.report.found(Broken, "the export says %d leaves, its checkpoint %d", l.TreeSize, c.Size)
	}
	if l.Filtered {
		return nil
	}
	if err := t.goOn(l); err != nil {
		return err
	}
	if trusted {
		t.Anchor(c)
	}
	t.meet()
	return nil
}

// goOn sets the tree to where the part begins.
func (t *Trail) goOn(l *line) error {
	before, err := auditlog.NewFrontier(l.First, l.Before)
	if err != nil {
		return fmt.Errorf("%w: %w", errNotExport, err)
	}
	switch {
	case !t.started:
		t.started = true
	case l.First < t.next:
		return errors.New("the parts of an export have to come in order, each once")
	case l.First > t.next:
		t.report.add(Finding{Kind: Unproven, LeafIndex: t.next, Through: l.First - 1, Detail: "in none of the parts"})
	case t.tree != nil && before.Root() != t.tree.Root():
		t.report.found(Broken, "the part from leaf %d on does not go on from the one before it", l.First)
	}
	t.tree, t.next = before, l.First
	return nil
}

// meet compares the tree with the roots that were signed for its size.
func (t *Trail) meet() {
	if t.tree == nil {
		return
	}
	told := map[tlog.Hash]bool{t.tree.Root(): true}
	for _, a := range slices.Backward(t.anchors) { // the one kept from before is the first: the log may sign the same now
		if a.met || a.Size != t.tree.Size() {
			continue
		}
		a.met = true
		switch {
		case told[a.Root]:
		case a.before:
			t.report.found(Forked, "the first %d leaves are not those of the checkpoint kept from before", a.Size)
		default:
			t.report.found(Broken, "the hashes of the %d leaves do not make the root that was signed%s", a.Size, t.since(a.Size))
		}
		told[a.Root] = true
	}
}

// since narrows down where hashes were changed: behind the last root that was met.
func (t *Trail) since(size int64) string {
	met := int64(-1)
	for _, a := range t.anchors {
		if a.met && a.Size < size && a.Size > met && a.Size > 0 {
			met = a.Size
		}
	}
	if met < 0 {
		return ""
	}
	return fmt.Sprintf("; look between leaves %d and %d", met, size-1)
}

// leaf takes the next line of a whole export.
func (t *Trail) leaf(l *line) error {
	index := *l.LeafIndex
	switch {
	case index < 0:
		return errNotExport
	case index >= t.part.checkpoint.Size:
		t.rows.stray(l, fmt.Sprintf("beyond the %d leaves of the checkpoint", t.part.checkpoint.Size))
		return nil
	case index < t.next:
		t.rows.again(l)
		return nil
	case index > t.next:
		t.report.add(Finding{Kind: Missing, LeafIndex: t.next, Through: index - 1, Detail: "left out of the export, hash and all"})
		t.tree = nil
	}
	t.next = index + 1
	t.report.Leaves++
	if t.tree != nil {
		t.tree.Add(l.LeafHash)
		t.meet()
	}
	if t.known != nil {
		if err := t.remember(l); err != nil {
			return err
		}
	}
	t.rows.first(l)
	return nil
}

func (t *Trail) remember(l *line) error {
	before, seen, err := t.known.Next(*l.LeafIndex, l.LeafHash)
	if err != nil {
		return err
	}
	if seen && before != l.LeafHash {
		detail := "the hash in the log is not the one that was read before"
		if !l.gone() && l.hash() == before {
			detail += ", and the event itself is still the same"
		}
		t.report.add(Finding{Kind: Changed, LeafIndex: *l.LeafIndex, Through: *l.LeafIndex, EventID: l.about().EventID, Detail: detail})
	}
	return nil
}

// picked takes a line of a filtered export, which proves itself or nothing.
func (t *Trail) picked(l *line) {
	index := *l.LeafIndex
	t.report.Leaves++
	size := t.part.checkpoint.Size
	switch {
	case index <= t.part.last:
		t.rows.stray(l, "a second line for this leaf")
	case index >= size:
		t.rows.stray(l, fmt.Sprintf("beyond the %d leaves of the checkpoint", size))
	case l.Proof == nil && size > 1:
		t.part.unproven++
		t.rows.first(l)
	case t.part.trusted && tlog.CheckRecord(l.Proof, size, t.part.checkpoint.Root, index, l.LeafHash) != nil:
		t.rows.stray(l, "its proof does not lead to the signed root")
	default:
		t.rows.first(l)
	}
	t.part.last = max(t.part.last, index)
}

func (t *Trail) trailer(l *line) {
	t.part.open = false
	t.report.Dropped = append(t.report.Dropped, l.Dropped...)
	if t.part.unproven > 0 {
		t.report.found(Unproven, "%d events of a filtered export have no proof; ask for it with proofs=true", t.part.unproven)
	}
	if t.part.filtered && !l.Complete {
		t.report.found(Unproven, "the export ends early; go on with cursor=%s", *l.Cursor)
	}
}

func (t *Trail) cutOff() {
	t.part.open = false
	if t.part.filtered {
		t.report.found(Unproven, "the export is cut off after leaf %d", t.part.last)
	}
}

// Report ends the check.
func (t *Trail) Report() *Report {
	if t.part.open {
		t.cutOff()
	}
	t.rows.settle(t.report)
	t.absent()
	if t.signed == nil && len(t.report.Findings) == 0 {
		t.report.found(Unproven, "there is no checkpoint")
	}
	t.unmet()
	if t.kept != nil && !t.kept.met && !t.connected {
		t.compareKept()
	}
	slices.SortStableFunc(t.report.Findings, func(a, b Finding) int { return int(min(max(a.LeafIndex-b.LeafIndex, -1), 1)) })
	return t.report
}

// unmet tells which roots the leaves never reached. Where a whole leaf is missing that has been said.
func (t *Trail) unmet() {
	if t.tree == nil {
		return
	}
	for _, a := range t.anchors {
		if a.met || a.before || t.signed == nil {
			continue
		}
		if a.Size > t.next {
			t.report.found(Unproven, "the export ends before the %d leaves of its checkpoint; go on with cursor=%d", a.Size, t.next)
			return
		}
		t.report.found(Unproven, "the export begins behind the checkpoint of %d leaves", a.Size)
	}
}

// compareKept is for where the tree never had the size of the checkpoint from before.
func (t *Trail) compareKept() {
	kept := t.kept.Checkpoint
	switch {
	case t.signed == nil:
	case t.newest.Size < kept.Size:
		t.report.found(Rollback, "the log has %d leaves and had %d: a backup was restored, or its end was cut off", t.newest.Size, kept.Size)
	case t.newest.Size == kept.Size && t.newest.Root != kept.Root:
		t.report.found(Forked, "the log signed another root for %d leaves before", kept.Size)
	case t.newest.Size > kept.Size:
		t.report.found(Unproven, "nothing here connects the checkpoint with the one of %d leaves kept from before", kept.Size)
	}
}

// Believed is the note of the newest checkpoint, to be kept for the next time, or nil if there is none that
// is signed and goes on from the last one.
func (t *Trail) Believed() []byte {
	for _, f := range t.report.Findings {
		if f.Kind == Forked || f.Kind == Rollback || f.Kind == Unsigned || f.Kind == Broken {
			return nil
		}
	}
	if t.kept != nil && !t.kept.met && !t.connected && t.newest != t.kept.Checkpoint {
		return nil
	}
	return t.signed
}
