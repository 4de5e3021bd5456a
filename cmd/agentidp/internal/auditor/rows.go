package auditor

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"golang.org/x/mod/sumdb/tlog"
)

// rows judges events against the hashes that were logged for them.
type rows struct {
	report  *Report
	events  int64
	current *mismatch // the leaf of the last line, while it has no event that fits
	fits    bool      // the leaf of the last line has one
	odd     []mismatch
	gone    []span
	days    map[string]*present
	newest  time.Time // of an event
	window  retention
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

func newRows(report *Report) rows { return rows{report: report, days: map[string]*present{}} }

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
		if r.days[day] == nil {
			r.days[day] = &present{}
		}
		r.days[day].events++
		r.days[day].last = max(r.days[day].last, index)
		if event.Timestamp.After(r.newest) {
			r.newest = event.Timestamp
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

// settle writes what was found. whole tells that every leaf was read.
func (r *rows) settle(whole bool) {
	r.flush()
	r.changed()
	r.missing(whole)
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
