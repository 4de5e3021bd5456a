package keys

import (
	"context"
	"time"
)

// State of a key. What is past its GoneAt has no row any more.
type State string

// The states, in the order a key goes through them.
const (
	Next    State = "next"    // published, does not sign yet
	Active  State = "active"  // signs
	Retired State = "retired" // published until the last token it signed has expired
)

// Record is a key as it is stored.
type Record struct {
	ID          string // RFC 7638 thumbprint
	Algorithm   Algorithm
	State       State
	Sealed      []byte
	TokenTTL    time.Duration // the longest lifetime of a token any replica signs with it
	CreatedAt   time.Time
	ActivatedAt *time.Time
	RetiredAt   *time.Time
	GoneAt      *time.Time // when the last token it signed has expired
}

// Change is what one pass does to the stored keys, in this order. Empty fields
// do nothing.
type Change struct {
	Delete   []string      // keys that are gone, or that never will sign
	Retire   string        // the active key, with GoneAt
	GoneAt   time.Time     // of the retired key
	Activate string        // the key that signs from now on
	RaiseTTL string        // the active key, when its TokenTTL is to become TTL
	TTL      time.Duration // see RaiseTTL
	Insert   *Record       // a new key
	At       time.Time     // the time of the pass
}

func (c Change) empty() bool {
	return len(c.Delete) == 0 && c.Retire == "" && c.Activate == "" && c.RaiseTTL == "" && c.Insert == nil
}

// Store keeps the keys.
type Store interface {
	// Keys answers all stored keys.
	Keys(ctx context.Context) ([]Record, error)
	// Change reads all keys under a lock that only one replica holds at a time,
	// asks decide what to do, and does it in the same transaction.
	Change(ctx context.Context, decide func([]Record) Change) error
}

// retirementMargin covers replicas that have not yet read that a key is retired,
// and clocks that differ.
const retirementMargin = time.Minute

// policy is what this replica wants of the keys.
type policy struct {
	algorithm   Algorithm
	tokenTTL    time.Duration
	propagation time.Duration
}

// newKey says in which state a new key is needed, or "" if none is.
func (p policy) newKey(records []Record) State {
	active, next := find(records, Active), find(records, Next)
	switch {
	case active == nil && next == nil:
		return Active // nothing was ever signed: nobody has to learn of the key first
	case active != nil && active.Algorithm != p.algorithm && (next == nil || next.Algorithm != p.algorithm):
		return Next
	default:
		return ""
	}
}

// introduce is the pass at the start of a replica: it brings in a key of the
// wanted algorithm, and takes back one that waits for an algorithm no longer
// wanted. Only the start does this, so that replicas with different settings,
// as during a rollout, do not undo each other's work again and again.
// The candidate is used if a new key is needed.
func (p policy) introduce(records []Record, candidate *Record, now time.Time) Change {
	change := Change{At: now}
	active, next := find(records, Active), find(records, Next)
	if active != nil && active.TokenTTL < p.tokenTTL {
		change.RaiseTTL, change.TTL = active.ID, p.tokenTTL
	}
	if active != nil && next != nil && next.Algorithm != p.algorithm {
		change.Delete = append(change.Delete, next.ID)
	}
	state := p.newKey(records)
	if state == "" || candidate == nil {
		return change
	}
	record := *candidate
	record.State, record.TokenTTL, record.CreatedAt = state, p.tokenTTL, now
	if state == Active {
		record.ActivatedAt = &now
	}
	change.Insert = &record
	return change
}

// advance is the pass every replica makes every few seconds: the key that was
// published long enough signs from now on, keys that are gone are deleted.
func (p policy) advance(records []Record, now time.Time) Change {
	change := Change{At: now}
	for _, record := range records {
		if record.State == Retired && record.GoneAt != nil && !record.GoneAt.After(now) {
			change.Delete = append(change.Delete, record.ID)
		}
	}
	active, next := find(records, Active), find(records, Next)
	if next == nil || next.CreatedAt.Add(p.propagation).After(now) {
		return change
	}
	change.Activate = next.ID
	if active != nil {
		change.Retire = active.ID
		change.GoneAt = now.Add(max(active.TokenTTL, p.tokenTTL) + retirementMargin)
	}
	return change
}

func find(records []Record, state State) *Record {
	for i := range records {
		if records[i].State == state {
			return &records[i]
		}
	}
	return nil
}
