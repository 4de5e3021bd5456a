package trail

import "time"

const day = 24 * time.Hour

// Window is how long events are shown and kept: the last days × 24 hours.
type Window struct {
	length time.Duration
}

// NewWindow returns a Window of days (≥ 1).
func NewWindow(days int) Window { return Window{length: time.Duration(days) * day} }

// Days is the length of the window.
func (w Window) Days() int { return int(w.length / day) }

// Since is the first moment inside the window.
func (w Window) Since(now time.Time) time.Time { return now.UTC().Add(-w.length) }

// Shows tells whether an event of a moment is inside the window.
func (w Window) Shows(at, now time.Time) bool { return !at.Before(w.Since(now)) }

// Oldest is the oldest day (its first moment, UTC) of which some moment is inside
// the window. Retention removes the days before it.
func (w Window) Oldest(now time.Time) time.Time { return Day(w.Since(now)) }

// Day is the first moment of the day of t in UTC.
func Day(t time.Time) time.Time { return t.UTC().Truncate(day) }
