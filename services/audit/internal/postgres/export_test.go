package postgres

import (
	"time"

	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

// What tests look at.
const (
	CountUpTo = countUpTo
	PlansSQL  = sqlPlans
	KnownSQL  = sqlKnown
	LeafSQL   = sqlLeaf
	DaysSQL   = sqlPartitions
)

// The statements of lists and their arguments.
var (
	Listing      = listing
	CountingPage = countingPage
)

// Forget takes from a Store the estimates it remembers.
func Forget(s *Store) { s.estimates.known = nil }

// Stretch is the search for the want newest events of a filter, none of them after until.
func Stretch(filter trail.Filter, until time.Time, want int64) func(time.Time, func(trail.Filter) (int64, error)) error {
	return stretch{filter: filter, until: until, want: want}.look
}

// The two halves of how a day is removed.
var (
	CountDay   = Retention.count
	DropDay    = Retention.dropCounted
	ErrChanged = errChanged
)
