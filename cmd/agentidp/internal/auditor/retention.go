package auditor

import (
	"fmt"
	"slices"
	"time"

	"github.com/sentryagent/agentidp/pkg/auditlog"
)

// What retention has removed is only the service's word: no signature covers it. So it is held against everything
// that is known otherwise, and what is left of it explains a gap only within a window that the auditor names.

// retention is how many days events are kept, as the auditor was told; zero if nobody said.
type retention struct {
	days int
	now  time.Time
}

// present is the events of a day that are there.
type present struct {
	events int64
	last   int64 // leaf
}

// Retention says for how many days, at least 1, events are kept: what is removed within these is missing.
func (t *Trail) Retention(days int, now time.Time) { t.rows.window = retention{days: days, now: now} }

// missing holds the leaves without an event against the days that retention says it has removed.
func (r *rows) missing(whole bool) {
	var accepted, refused []auditlog.DroppedDay
	claims := r.report.Dropped
	seen := map[string]bool{}
	for i, day := range claims {
		others := slices.Concat(claims[:i:i], claims[i+1:])
		why := r.contradiction(day, others)
		if seen[day.Day] {
			why = "the service says two different things about this day"
		}
		seen[day.Day] = true
		if why == "" {
			accepted = append(accepted, day)
			continue
		}
		refused = append(refused, day)
		r.add(Finding{Kind: Missing, LeafIndex: max(day.FirstLeaf, -1), Through: day.LastLeaf,
			Detail: fmt.Sprintf("retention does not explain that %d events of %q are gone: %s", day.Events, day.Day, why)})
	}
	var explained, removed, there int64
	for _, s := range r.gone {
		explained += s.last - s.first + 1
		for _, rest := range outside(s, accepted) {
			explained -= rest.last - rest.first + 1
			for _, alone := range outside(rest, refused) { // of the others it has been told
				r.add(Finding{Kind: Missing, LeafIndex: alone.first, Through: alone.last, Detail: "the event is gone, and not by retention"})
			}
		}
	}
	for _, day := range accepted {
		removed += day.Events
		if p := r.days[day.Day]; p != nil { // read before it was removed
			there += p.events
		}
	}
	switch {
	case explained > removed || whole && explained+there != removed:
		r.add(Finding{Kind: Missing, LeafIndex: -1, Through: -1, Detail: fmt.Sprintf(
			"%d events are gone, and retention says that it removed %d", explained, removed-min(there, removed))})
	case explained > 0 && r.window.days == 0:
		r.add(Finding{Kind: Unproven, LeafIndex: -1, Through: -1, Detail: fmt.Sprintf(
			"%d events are gone, and only the service says that retention removed them; name the days that events are kept with --retention-days", explained)})
	}
}

// contradiction is why a day cannot have been removed by retention as the service says it; empty if it can.
func (r *rows) contradiction(day auditlog.DroppedDay, others []auditlog.DroppedDay) string {
	at, err := time.Parse(time.DateOnly, day.Day)
	if err != nil || day.Events < 1 || day.FirstLeaf < 0 || day.LastLeaf < day.FirstLeaf || day.Events > day.LastLeaf-day.FirstLeaf+1 {
		return "the service does not say it in a way that can be"
	}
	if older := r.older(day.Day, append(others, day)); older != "" {
		return fmt.Sprintf("older ones of %s are kept, which retention never does", older)
	}
	if gap, behind := r.behind(day, others); behind {
		return fmt.Sprintf("one of them is still there, behind the gap at leaf %d, and retention removes whole days", gap)
	}
	if kept := r.window.days; kept > 0 && at.AddDate(0, 0, 1+kept).After(r.window.now) {
		return fmt.Sprintf("events are kept for %d days", kept)
	} else if kept > 0 && at.AddDate(0, 0, 1+kept).After(r.newest) && !r.newest.IsZero() {
		r.add(Finding{Kind: Unproven, LeafIndex: day.FirstLeaf, Through: day.LastLeaf, Detail: fmt.Sprintf(
			"the newest event that is here is less than %d days younger than the events of %s, which are gone", kept, day.Day)})
	}
	return ""
}

// behind tells whether an event of the day is there behind a gap that is the day's own, and at which leaf that is.
func (r *rows) behind(day auditlog.DroppedDay, others []auditlog.DroppedDay) (gap int64, is bool) {
	p := r.days[day.Day]
	if p == nil {
		return 0, false
	}
	for _, s := range r.gone {
		for _, own := range outside(s, others) {
			if first := max(own.first, day.FirstLeaf); first <= min(own.last, day.LastLeaf) && first < p.last {
				return first, true
			}
		}
	}
	return 0, false
}

// older is the oldest day of which events are kept, if it comes before day.
func (r *rows) older(day string, dropped []auditlog.DroppedDay) (oldest string) {
	for kept := range r.days {
		if kept < day && (oldest == "" || kept < oldest) &&
			!slices.ContainsFunc(dropped, func(d auditlog.DroppedDay) bool { return d.Day == kept }) { // removed while it was read
			oldest = kept
		}
	}
	return oldest
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
