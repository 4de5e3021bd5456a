// Package paging has the words for pages of a list that is shown newest first: which part is asked for, and what there
// is to answer. Domains and their stores share it; it knows neither how a client asks nor how a store reads.
package paging

import (
	"time"

	"github.com/google/uuid"
)

// Position is the place of an item in a list's order, newest first: its time
// (to the microsecond, as Postgres keeps it) and its id as tie-break.
type Position struct {
	Time time.Time
	ID   uuid.UUID
}

// Total is how many items a list has on all its pages.
type Total struct {
	Items int64
	// Estimate: to count them would have taken too long.
	Estimate bool
}

// Page says which part of a list is asked for: the items after a position, or, where After is nil, those after the
// first Offset.
type Page struct {
	Limit  int // > 0
	Offset int64
	After  *Position
	// Total is, with After, what the walk began with. A listing behind a position repeats it, because counting takes the
	// longer the more there are.
	Total Total
}

// Listing is one page of a list.
type Listing[T any] struct {
	Items []T
	Total Total
	// Next is the place of the last item, after which the next page begins; nil if no items follow.
	Next *Position
}

// Cut makes a listing of items that were fetched with one more than the limit, if there are as many: the surplus one
// only tells that the page is not the last.
func Cut[T any](fetched []T, limit int, total Total, place func(T) Position) Listing[T] {
	if len(fetched) <= limit {
		return Listing[T]{Items: fetched, Total: total}
	}
	last := place(fetched[limit-1])
	return Listing[T]{Items: fetched[:limit], Total: total, Next: &last}
}
