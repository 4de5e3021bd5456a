package auditor

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sentryagent/agentidp/pkg/auditlog"
)

// rows judges events against the hashes that were logged for them.
type rows struct {
	report  *Report
	events  int64
	current *mismatch // the leaf of the last line, while it has no event that fits
	fits    bool      // the leaf of the last line has one
	odd     []mismatch
	gone    []span
	days    map[string]int64 // first leaf of each day of which there are events
	ids     []identity
}

// mismatch is a leaf whose event has another hash.
type mismatch struct {
	index   int64
	eventID string
	logged  tlog.Hash
	hash    tlog.Hash
}

// span is leaves in a row whose event is gone.
type span struct{ first, last int64 }

// identity is where an event with this id is.
type identity struct {
	id    uuid.UUID
	index int64
}

func newRows(report *Report) rows { return rows{report: report, days: map[string]int64{}} }

func (r *rows) add(f Finding) { r.report.add(f) }

// stray takes a line that stands where no event can be.
func (r *rows) stray(l *line, why string) {
	r.add(Finding{Kind: Added, LeafIndex: *l.LeafIndex, Through: *l.LeafIndex, EventID: l.about().EventID, Detail: why})
}

// first takes the first line of a leaf.
func (r *rows) first(l *line) {
	r.flush()
	index := *l.LeafIndex
	if r.fits = false; l.gone() {
		r.lost(index)
		return
	}
	event := l.about()
	if hash := l.hash(); hash != l.LeafHash {
		r.current = &mismatch{index: index, eventID: event.EventID, logged: l.LeafHash, hash: hash}
		return
	}
	r.good(index, event)
}

// again takes a further line of a leaf that was there already: of two events with one index, the one that
// has the hash is the one that was logged.
func (r *rows) again(l *line) {
	index := *l.LeafIndex
	const why = "a second event with the index of a leaf"
	if r.current != nil && r.current.index == index && !l.gone() && l.hash() == l.LeafHash {
		r.add(Finding{Kind: Added, LeafIndex: index, Through: index, EventID: r.current.eventID, Detail: why})
		r.current = nil
		r.good(index, l.about())
		return
	}
	r.stray(l, why)
}

func (r *rows) good(index int64, event about) {
	r.fits = true
	r.events++
	if day := event.day(); day != "" {
		if _, seen := r.days[day]; !seen {
			r.days[day] = index
		}
	}
	if id, err := uuid.Parse(event.EventID); err == nil {
		r.ids = append(r.ids, identity{id: id, index: index})
	}
}

func (r *rows) lost(index int64) {
	if n := len(r.gone); n > 0 && r.gone[n-1].last == index-1 {
		r.gone[n-1].last = index
		return
	}
	r.gone = append(r.gone, span{first: index, last: index})
}

func (r *rows) flush() {
	if r.current != nil {
		r.odd = append(r.odd, *r.current)
		r.current = nil
	}
}

// settle writes what was found.
func (r *rows) settle() {
	r.flush()
	r.changed()
	r.missing(r.report.Dropped)
	r.outOfOrder(r.report.Dropped)
	r.doubled()
	r.report.Events += r.events
}

// changed tells events that were changed from those that changed places.
func (r *rows) changed() {
	home := make(map[tlog.Hash]int64, len(r.odd))
	for _, m := range r.odd {
		home[m.logged] = m.index
	}
	for _, m := range r.odd {
		f := Finding{Kind: Changed, LeafIndex: m.index, Through: m.index, EventID: m.eventID}
		if at, elsewhere := home[m.hash]; elsewhere {
			f.Kind, f.Detail = Moved, fmt.Sprintf("this is the event of leaf %d", at)
		} else {
			f.Detail = fmt.Sprintf("its hash is %s, the one that was logged is %s", m.hash, m.logged)
		}
		r.add(f)
	}
}

// missing holds the leaves without an event against the days that retention says it has removed.
func (r *rows) missing(dropped []auditlog.DroppedDay) {
	var explained, removed int64
	for _, s := range r.gone {
		for _, rest := range outside(s, dropped) {
			r.add(Finding{Kind: Missing, LeafIndex: rest.first, Through: rest.last, Detail: "the event is gone, and not by retention"})
			explained -= rest.last - rest.first + 1
		}
		explained += s.last - s.first + 1
	}
	for _, day := range uniqueDays(dropped) {
		removed += day.Events
	}
	if explained > removed {
		r.add(Finding{Kind: Missing, LeafIndex: -1, Through: -1, Detail: fmt.Sprintf(
			"%d events are gone, and retention says that it removed %d", explained, removed)})
	}
}

// uniqueDays is the days without those that several parts of an export repeat.
func uniqueDays(dropped []auditlog.DroppedDay) []auditlog.DroppedDay {
	seen := map[auditlog.DroppedDay]bool{}
	return slices.DeleteFunc(slices.Clone(dropped), func(day auditlog.DroppedDay) bool {
		again := seen[day]
		seen[day] = true
		return again
	})
}

// outside is the parts of s that lie within none of the days.
func outside(s span, dropped []auditlog.DroppedDay) []span {
	rest := []span{s}
	for _, day := range dropped {
		var next []span
		for _, piece := range rest {
			if day.LastLeaf < piece.first || day.FirstLeaf > piece.last {
				next = append(next, piece)
				continue
			}
			if piece.first < day.FirstLeaf {
				next = append(next, span{piece.first, day.FirstLeaf - 1})
			}
			if day.LastLeaf < piece.last {
				next = append(next, span{day.LastLeaf + 1, piece.last})
			}
		}
		rest = next
	}
	return rest
}

// outOfOrder finds days that were taken out of the middle: retention removes the oldest.
func (r *rows) outOfOrder(dropped []auditlog.DroppedDay) {
	gone := map[string]bool{}
	for _, day := range dropped {
		gone[day.Day] = true
	}
	oldest := ""
	for day := range r.days {
		if !gone[day] && (oldest == "" || day < oldest) { // one that was dropped while the export was read is there and gone
			oldest = day
		}
	}
	for _, day := range uniqueDays(dropped) {
		if oldest != "" && day.Day > oldest {
			r.add(Finding{Kind: Missing, LeafIndex: day.FirstLeaf, Through: day.LastLeaf, Detail: fmt.Sprintf(
				"the %d events of %s were removed while older ones of %s are kept, which retention never does", day.Events, day.Day, oldest)})
		}
	}
}

// doubled finds events that are there twice under one id.
func (r *rows) doubled() {
	slices.SortFunc(r.ids, func(a, b identity) int {
		if c := bytes.Compare(a.id[:], b.id[:]); c != 0 {
			return c
		}
		return int(min(max(a.index-b.index, -1), 1))
	})
	for i := 1; i < len(r.ids); i++ {
		if r.ids[i].id == r.ids[i-1].id && r.ids[i].index != r.ids[i-1].index { // two filtered exports may both have the leaf
			r.add(Finding{Kind: Added, LeafIndex: r.ids[i].index, Through: r.ids[i].index, EventID: r.ids[i].id.String(),
				Detail: fmt.Sprintf("an event with this id is leaf %d already", r.ids[i-1].index)})
		}
	}
}
