package postgres

import (
	"context"
	"time"

	"github.com/sentryagent/agentidp/pkg/paging"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

// What tests look at.
const (
	CountUpTo = countUpTo
	PlansSQL  = sqlPlans
	KnownSQL  = sqlKnown
	LeaseSQL  = sqlLease
	LeafSQL   = sqlLeaf
	DaysSQL   = sqlPartitions
)

// The statements of lists and their arguments.
var (
	Listing  = listing
	Counting = counting
)

// CountingEdge is the statement that counts a part of a day.
func CountingEdge(part trail.Filter) (sql string, args []any) {
	q := (&edge{part: part}).count()
	return q.sql, q.args
}

// Reach is what of a list a Store looks through for a page, by the counts there are.
func Reach(ctx context.Context, s *Store, filter trail.Filter, page paging.Page) (trail.Filter, paging.Page, bool, error) {
	days, err := s.counts(ctx, filter)
	filter, page, ok := days.reach(filter, page)
	return filter, page, ok, err
}

// SetClock gives a Store another clock.
func SetClock(s *Store, clock func() time.Time) { s.clock = clock }

// The two halves of how a day is removed.
var (
	CountDay   = Retention.count
	DropDay    = Retention.dropCounted
	ErrChanged = errChanged
)
