package keys

import (
	"context"
	"slices"
	"time"
)

// State of a key.
type State string

// The states, in the order a key goes through them.
const (
	Next    State = "next"    // published, does not sign yet
	Active  State = "active"  // signs
	Retired State = "retired" // published until the last token it signed has expired
	Gone    State = "gone"    // its private half is deleted; its id is remembered, so that it never comes back
)

// Record is a key as it is stored.
type Record struct {
	ID          string // RFC 7638 thumbprint
	Algorithm   Algorithm
	State       State
	Sealed      []byte        // nothing once it is gone
	TokenTTL    time.Duration // the longest lifetime of a token any replica signs with it; 0 once it is gone
	CreatedAt   time.Time
	ActivatedAt *time.Time
	RetiredAt   *time.Time
	GoneAt      *time.Time // of a retired key: when the last token that any replica signed with it has expired
}

// Change is what one pass does to the stored keys, in this order. Empty fields
// do nothing.
type Change struct {
	Withdraw []string      // keys that never signed and may come again
	Bury     []string      // keys that are gone from now on
	Retire   string        // the active key, with GoneAt
	GoneAt   time.Time     // of the retired key
	Activate string        // the key that signs from now on
	RaiseTTL []string      // keys whose TokenTTL is to be TTL at least
	TTL      time.Duration // see RaiseTTL
	Insert   *Record       // a new key
	At       time.Time     // the time of the pass
}

func (c Change) empty() bool {
	return len(c.Withdraw) == 0 && len(c.Bury) == 0 && c.Retire == "" && c.Activate == "" &&
		len(c.RaiseTTL) == 0 && c.Insert == nil
}

// Store keeps the keys.
type Store interface {
	// Keys answers all keys, those that are gone included.
	Keys(ctx context.Context) ([]Record, error)
	// Change reads all keys under a lock that only one replica holds at a time,
	// asks decide what to do, and does it in the same transaction. now is the time of
	// the store, one for all replicas and operators, read under the lock.
	Change(ctx context.Context, decide func(records []Record, now time.Time) Change) error
}

const (
	// signsUnread is how long a replica that cannot read the keys goes on signing with
	// the one that signed when it last could. It may have been retired right after.
	signsUnread = time.Hour
	// retirementMargin is how much later than its last token a retired key goes. It
	// covers replicas that have not read that it is retired, and clocks that differ.
	retirementMargin = signsUnread + time.Minute
)

// policy is what this replica wants of the keys.
type policy struct {
	algorithm   Algorithm
	tokenTTL    time.Duration
	propagation time.Duration
	rotation    time.Duration // how long a key signs; 0 = until somebody says otherwise
}

// occasion is what may call for a new key beside the age of the active one.
type occasion struct {
	// starting is the first pass of a replica. Only then is a key made for another
	// algorithm, or one taken back, so that replicas with different settings, as
	// during a rollout, do not undo each other's work again and again.
	starting bool
	// importing tells that an operator's key has not come in yet.
	importing bool
}

// wants says in which state a new key is needed, or "" if none is.
func (p policy) wants(active, next *Record, why occasion, now time.Time) State {
	switch {
	case active == nil && next == nil:
		return Active // no key that anybody knows is left: nobody can be told first
	case active == nil, next != nil:
		return ""
	case why.importing, why.starting && active.Algorithm != p.algorithm, p.due(*active, now):
		return Next
	default:
		return ""
	}
}

// due says whether the successor of the active key has to be published, for it to
// sign when the active key has signed for as long as it may.
func (p policy) due(active Record, now time.Time) bool {
	return p.rotation > 0 && !p.signsUntil(active).Add(-p.propagation).After(now)
}

// signsFrom is when a next key signs.
func (p policy) signsFrom(next Record) time.Time { return next.CreatedAt.Add(p.propagation) }

// signsUntil is when an active key has signed for as long as KEY_ROTATION says.
func (p policy) signsUntil(active Record) time.Time { return active.ActivatedAt.Add(p.rotation) }

// decide is the pass that every replica makes every few seconds: keys whose time
// has come go on to their next state, and fresh comes in if a new key is needed.
// fresh may be nil where none is.
func (p policy) decide(records []Record, fresh *Record, why occasion, now time.Time) Change {
	change := p.keep(records, now)
	active, next := find(records, Active), p.waiting(records, why)
	if taken := find(records, Next); taken != nil && next == nil {
		change.Withdraw = append(change.Withdraw, taken.ID)
	}
	if next != nil && (active == nil || !p.signsFrom(*next).After(now)) {
		change.Activate = next.ID
		if active != nil {
			change.Retire = active.ID
			change.GoneAt = now.Add(active.TokenTTL + retirementMargin)
		}
		return change
	}
	state := p.wants(active, next, why, now)
	if state == "" || fresh == nil || known(records, fresh.ID) {
		return change
	}
	change.Insert = introduce(*fresh, state, p.tokenTTL, now)
	return change
}

// keep is what a pass does whatever else it does: it buries the keys whose tokens have
// all expired, and has the others kept for as long as this replica's tokens live.
func (p policy) keep(records []Record, now time.Time) Change {
	change := Change{At: now, TTL: p.tokenTTL}
	for _, record := range records {
		switch {
		case record.State == Retired && !record.GoneAt.After(now):
			change.Bury = append(change.Bury, record.ID)
		case (record.State == Next || record.State == Active) && record.TokenTTL < p.tokenTTL:
			change.RaiseTTL = append(change.RaiseTTL, record.ID)
		}
	}
	return change
}

// waiting is the next key, unless this pass takes it back because it is of an
// algorithm that is no longer wanted.
func (p policy) waiting(records []Record, why occasion) *Record {
	next := find(records, Next)
	if next != nil && why.starting && next.Algorithm != p.algorithm && find(records, Active) != nil {
		return nil
	}
	return next
}

// introduce is a new key in its first state.
func introduce(fresh Record, state State, tokenTTL time.Duration, now time.Time) *Record {
	fresh.State, fresh.TokenTTL, fresh.CreatedAt = state, tokenTTL, now
	if state == Active {
		fresh.ActivatedAt = &now
	}
	return &fresh
}

func find(records []Record, state State) *Record {
	i := slices.IndexFunc(records, func(r Record) bool { return r.State == state })
	if i < 0 {
		return nil
	}
	return &records[i]
}

func named(records []Record, kid string) *Record {
	i := slices.IndexFunc(records, func(r Record) bool { return r.ID == kid })
	if i < 0 {
		return nil
	}
	return &records[i]
}

func known(records []Record, kid string) bool { return named(records, kid) != nil }
