package auditor

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
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
	refuse    bool // filtered exports: nobody asked for one

	tree    *auditlog.Frontier // of the leaves read so far; nil before the first, and where it cannot be known any more
	started bool
	begin   int64 // the leaf to begin with
	next    int64 // the leaf that has to come now
	holed   bool  // a leaf was left out, which has been told
	parted  bool  // the leaves are not in one row any more
	met     int64 // the size of the last root that this row of leaves made, -1 without
	solid   int64 // the same for the first row

	roots  roots
	kept   *auditlog.Checkpoint
	any    bool                // a checkpoint was signed
	newest auditlog.Checkpoint // to be kept
	signed []byte              // its note, nil before the first
	single bool                // what was read is the proof of one event
	online bool                // a running log answered, which has to have all that it had; a file may be of any day
	cosign map[string]int64    // how many leaves each witness has signed

	part part
	rest string // where a filtered part says that it ends early, until the next part begins there
	rows rows
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

// NewTrail checks what the log with this key signed. The witnesses are those that must have signed as well.
func NewTrail(log note.Verifier, witnesses ...note.Verifier) *Trail {
	report := newReport()
	return &Trail{
		log: log, witnesses: witnesses, report: report, rows: newRows(report), roots: newRoots(), met: -1, cosign: map[string]int64{},
	}
}

// Keep says which checkpoint was believed before. It is for before the first Read.
func (t *Trail) Keep(c auditlog.Checkpoint) {
	t.report.Kept = c.Size
	t.kept = &c
	kept, _ := t.roots.of(c)
	kept.before = true
}

// From says with which leaf the export has to begin, if not with the first. Those before it are not asked about.
func (t *Trail) From(leaf int64) { t.begin = leaf }

// Compare names the leaf hashes that were seen before, and takes on the new ones.
func (t *Trail) Compare(known *Hashes) { t.known = known }

// Head takes a signed checkpoint, and tells whether the log signed it. The newest one counts.
func (t *Trail) Head(signed []byte) (auditlog.Checkpoint, bool) {
	c, trusted := t.open(signed)
	if trusted && (t.signed == nil || c.Size >= t.newest.Size) {
		t.newest, t.signed = c, signed
	}
	return c, trusted
}

// open takes a signed checkpoint that is not to be kept.
func (t *Trail) open(signed []byte) (auditlog.Checkpoint, bool) {
	c, opened, err := auditlog.Open(signed, t.log, t.witnesses...)
	if err != nil {
		t.report.found(Unsigned, "a checkpoint: %v", err)
		return auditlog.Checkpoint{}, false
	}
	known, other := t.roots.of(c)
	if other && !known.wrong {
		t.report.found(Forked, "the log has signed two different roots for %d leaves", c.Size)
		known.wrong = true
	}
	known.signed = true
	if !t.any || c.Size > t.report.TreeSize {
		t.report.Origin, t.report.TreeSize, t.report.Root = c.Origin, c.Size, c.Root.String()
	}
	t.any = true
	for _, witness := range t.witnesses {
		for _, sig := range opened.Sigs {
			if at, err := auditlog.CosignedAt(sig); err == nil && sig.Name == witness.Name() && sig.Hash == witness.KeyHash() {
				t.cosigned(Witnessed{Name: sig.Name, At: at.Format(time.RFC3339), TreeSize: c.Size})
			}
		}
	}
	return c, true
}

func (t *Trail) cosigned(by Witnessed) {
	if !slices.Contains(t.report.Witnesses, by) {
		t.report.Witnesses = append(t.report.Witnesses, by)
	}
	t.cosign[by.Name] = max(t.cosign[by.Name], by.TreeSize)
}

// Anchor adds a checkpoint that the log signed, apart from an export: its root has to be met by the leaves.
func (t *Trail) Anchor(c auditlog.Checkpoint) {
	known, _ := t.roots.of(c)
	known.whole = true
}

// absent tells which witnesses did not sign all of what was read.
func (t *Trail) absent() {
	for _, witness := range t.witnesses {
		switch size, seen := t.cosign[witness.Name()]; {
		case !seen:
			t.report.found(Unproven, "the witness %s has signed no checkpoint that is here", witness.Name())
		case size < t.report.TreeSize:
			t.report.add(Finding{Kind: Unproven, LeafIndex: size, Through: t.report.TreeSize - 1,
				Detail: fmt.Sprintf("the witness %s has signed no checkpoint that covers this", witness.Name())})
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
	if l.Filtered && t.refuse {
		return errors.New("the answer is a filtered export, and everything was asked for")
	}
	var c auditlog.Checkpoint
	trusted := false
	if *l.Checkpoint != "" || l.TreeSize != 0 { // a log without leaves may have signed nothing yet
		take := t.Head
		if l.Filtered { // it shows nothing of the way to its root
			take = t.open
		}
		c, trusted = take([]byte(*l.Checkpoint))
	}
	if !trusted {
		c.Size = l.TreeSize
	}
	t.part = part{open: true, checkpoint: c, trusted: trusted, filtered: l.Filtered, last: -1}
	if c.Size != l.TreeSize {
		t.report.found(Broken, "the export says %d leaves, its checkpoint %d", l.TreeSize, c.Size)
	}
	if l.Filtered {
		t.report.Filtered = true
		if t.rest == strconv.FormatInt(l.First, 10) {
			t.rest = ""
		}
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
		t.started, t.report.First = true, l.First
		if l.First > t.begin {
			t.report.add(Finding{Kind: Unproven, LeafIndex: t.begin, Through: l.First - 1, Detail: "not read: the export begins later"})
		}
	case l.First < t.next:
		return errors.New("the parts of an export have to come in order, each once")
	case l.First > t.next:
		t.report.add(Finding{Kind: Unproven, LeafIndex: t.next, Through: l.First - 1, Detail: "in none of the parts"})
		t.anew()
	case t.tree == nil:
		t.anew()
	case before.Root() != t.tree.Root():
		t.report.found(Broken, "the part from leaf %d on does not go on from the one before it", l.First)
		t.anew()
	}
	t.tree, t.next = before, l.First
	return nil
}

// anew begins another row of leaves: what the one before it made says nothing about this one.
func (t *Trail) anew() { t.parted, t.met = true, -1 }

// meet compares the tree with the root that was signed for its size.
func (t *Trail) meet() {
	if t.tree == nil {
		return
	}
	size := t.tree.Size()
	signed, ok := t.roots.bySize[size]
	if !ok || signed.wrong {
		return
	}
	if t.tree.Root() != signed.hash {
		signed.wrong = true
		if signed.signed {
			t.report.found(Broken, "the hashes of the %d leaves do not make the root that was signed%s", size, t.since())
		} else {
			t.report.found(Forked, "the first %d leaves are not those of the checkpoint kept from before", size)
		}
		return
	}
	signed.met = true
	if t.met >= 0 {
		t.roots.connect(t.met, size)
	}
	if t.met = size; !t.parted {
		t.solid = size
	}
}

// since narrows down where hashes were changed: behind the last root that was met.
func (t *Trail) since() string {
	if t.met <= 0 {
		return ""
	}
	return fmt.Sprintf("; look between leaves %d and %d", t.met, t.tree.Size()-1)
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
		t.tree, t.holed = nil, true
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
	for _, day := range l.Dropped {
		if !slices.Contains(t.report.Dropped, day) { // each part of an export names it
			t.report.Dropped = append(t.report.Dropped, day)
		}
	}
	if t.part.unproven > 0 {
		t.report.found(Unproven, "%d events of a filtered export have no proof; ask for it with proofs=true", t.part.unproven)
	}
	if t.part.filtered && !l.Complete {
		t.endsEarly()
		t.rest = *l.Cursor
	}
}

// endsEarly tells of a filtered part with which no other one goes on.
func (t *Trail) endsEarly() {
	if t.rest != "" {
		t.report.found(Unproven, "the export ends early; go on with cursor=%s", t.rest)
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
	t.endsEarly()
	t.report.Whole = t.any && t.started && !t.report.Filtered && t.report.First == 0 && t.solid == t.report.TreeSize
	t.rows.settle(t.report.Whole)
	t.absent()
	if !t.any && len(t.report.Findings) == 0 {
		t.report.found(Unproven, "there is no checkpoint")
	}
	t.unmet()
	t.compareKept()
	slices.SortStableFunc(t.report.Findings, func(a, b Finding) int { return int(min(max(a.LeafIndex-b.LeafIndex, -1), 1)) })
	return t.report
}

// unmet tells which roots the leaves never reached, and which nothing connects with the newest. Where a whole
// leaf is missing that has been said.
func (t *Trail) unmet() {
	connected := t.roots.beginnings(t.report.TreeSize)
	for _, size := range t.roots.sizes() {
		switch signed := t.roots.bySize[size]; {
		case !signed.signed || signed.wrong || t.holed:
		case signed.whole && !signed.met:
			if t.unread(size) {
				return
			}
		case !connected[size]:
			t.report.found(Unproven, "nothing here connects the checkpoints of %d and of %d leaves", size, t.report.TreeSize)
		}
	}
}

// unread says why the leaves never reached a root; last tells that no larger one can have been reached.
func (t *Trail) unread(size int64) (last bool) {
	switch {
	case !t.started:
		t.report.found(Unproven, "no leaf was read of the checkpoint of %d leaves", size)
	case size > t.next:
		t.report.found(Unproven, "the export ends before the %d leaves of its checkpoint; go on with cursor=%d", size, t.next)
		return true
	default:
		t.report.found(Unproven, "the export begins behind the checkpoint of %d leaves", size)
	}
	return false
}

// had is how many leaves the log had before, by the checkpoint or the hashes that were kept, and which of them says so.
func (t *Trail) had() (leaves int64, by string) {
	if t.kept != nil {
		leaves, by = t.kept.Size, "the one"
	}
	if t.known != nil && t.known.known > leaves {
		leaves, by = t.known.known, "the hashes"
	}
	return leaves, by
}

// compareKept holds the newest checkpoint against what was kept from before.
func (t *Trail) compareKept() {
	if !t.any {
		return
	}
	size := t.report.TreeSize
	had, by := t.had()
	switch {
	case t.kept != nil && t.roots.bySize[t.kept.Size].wrong:
	case size < had && !t.online:
		t.report.found(Unproven, "the checkpoint of %d leaves is older than %s of %d kept from before, or the log has lost its end since; "+
			"nothing here connects them", size, by, had)
	case size < had:
		t.report.found(Rollback, "the log has %d leaves and had %d: a backup was restored, or its end was cut off", size, had)
	case t.kept != nil && !t.roots.beginnings(size)[t.kept.Size]:
		t.report.found(Unproven, "nothing here connects the checkpoint with the one of %d leaves kept from before", t.kept.Size)
	}
}

// Believed is the note of the newest checkpoint, to be kept for the next time, or nil if there is none that was
// shown to go on from the last one. One whose leaves were asked for is only believed if they make its root. Those
// of a filtered export and of the proof of one event are not kept.
func (t *Trail) Believed() []byte {
	for _, kind := range []Kind{Forked, Rollback, Unsigned, Broken} {
		if t.report.has(kind) {
			return nil
		}
	}
	if t.signed == nil || t.single {
		return nil
	}
	newest := t.roots.bySize[t.newest.Size]
	if newest.wrong || newest.whole && !newest.met {
		return nil
	}
	if had, _ := t.had(); had > t.newest.Size || t.kept != nil && !t.roots.beginnings(t.newest.Size)[t.kept.Size] {
		return nil
	}
	return t.signed
}

// Solid is how many leaves from the beginning of the export on, without a gap, make a root that is a beginning of
// the one that is believed. The hashes of others are not worth keeping.
func (t *Trail) Solid() int64 {
	if t.Believed() == nil || !t.roots.beginnings(t.newest.Size)[t.solid] {
		return 0
	}
	return t.solid
}
