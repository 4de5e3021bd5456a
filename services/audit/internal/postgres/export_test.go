package postgres

// What tests look at.
const (
	CountUpTo = countUpTo
	PlansSQL  = sqlPlans
	KnownSQL  = sqlKnown
	LeafSQL   = sqlLeaf
)

// Listing is the statement of a list and its arguments.
var Listing = listing

// The two halves of how a day is removed.
var (
	CountDay   = Retention.count
	DropDay    = Retention.dropCounted
	ErrChanged = errChanged
)
