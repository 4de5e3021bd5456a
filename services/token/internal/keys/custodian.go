package keys

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// What an operator is told who commands what cannot be done.
var (
	// ErrNoKeys means that no replica ever made the first key.
	ErrNoKeys = errors.New("there is no signing key yet; the service makes the first one when it starts")
	// ErrWaiting means that a key waits to sign already.
	ErrWaiting = errors.New("a key waits to sign already")
	// ErrUnknown means that no key has the id.
	ErrUnknown = errors.New("no key has this id; list shows those there are")
	// ErrGone means that the key is gone already.
	ErrGone = errors.New("this key is gone already")
)

// Key is what an operator may know of a key. A time that the state of the key does
// not have, or that is not known, is nil.
type Key struct {
	ID          string     `json:"kid"`
	Algorithm   Algorithm  `json:"alg"`
	State       State      `json:"state"`
	CreatedAt   time.Time  `json:"createdAt"`
	SignsFrom   *time.Time `json:"signsFrom"`   // of a next key: when it will
	SignedUntil *time.Time `json:"signedUntil"` // of retired keys, and of those gone that signed
	GoneAt      *time.Time `json:"goneAt"`      // of a retired key: when it will be
}

// CustodianConfig is what a Custodian needs.
type CustodianConfig struct {
	Store       Store
	Sealer      *Sealer
	Propagation time.Duration // how long the replicas publish a key before it signs
}

// Custodian does what an operator commands. The replicas follow within seconds.
type Custodian struct {
	store  Store
	sealer *Sealer
	policy policy
}

// NewCustodian makes a Custodian.
func NewCustodian(cfg CustodianConfig) *Custodian {
	return &Custodian{
		store: cfg.Store, sealer: cfg.Sealer, policy: policy{propagation: cfg.Propagation},
	}
}

// List answers the keys, newest first; those that are gone only if all are asked for.
func (c *Custodian) List(ctx context.Context, all bool) ([]Key, error) {
	records, err := c.store.Keys(ctx)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(records, func(a, b Record) int {
		if order := b.CreatedAt.Compare(a.CreatedAt); order != 0 {
			return order
		}
		return strings.Compare(a.ID, b.ID)
	})
	list := make([]Key, 0, len(records))
	for _, record := range records {
		if record.State != Gone || all {
			list = append(list, c.describe(record))
		}
	}
	return list, nil
}

func (c *Custodian) describe(record Record) Key {
	key := Key{
		ID: record.ID, Algorithm: record.Algorithm, State: record.State, CreatedAt: *utc(&record.CreatedAt),
		SignsFrom: utc(record.ActivatedAt), SignedUntil: utc(record.RetiredAt), GoneAt: utc(record.GoneAt),
	}
	if record.State == Next {
		from := c.policy.signsFrom(record)
		key.SignsFrom = utc(&from)
	}
	return key
}

// utc is a time as the store keeps it: in UTC, to the microsecond.
func utc(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	at := t.UTC().Truncate(time.Microsecond)
	return &at
}

// Rotate publishes a new key of the active one's algorithm, which signs once it was
// published for long enough. It answers ErrNoKeys, and ErrWaiting if there is a next
// key already.
func (c *Custodian) Rotate(ctx context.Context) (Key, error) {
	records, err := c.store.Keys(ctx)
	if err != nil {
		return Key{}, err
	}
	active := find(records, Active)
	if active == nil {
		return Key{}, ErrNoKeys
	}
	fresh, err := c.successor(*active)
	if err != nil {
		return Key{}, err
	}
	var made *Record
	var refused error
	err = c.store.Change(ctx, func(current []Record, now time.Time) Change {
		active, next := find(current, Active), find(current, Next)
		switch {
		case active == nil:
			refused = ErrNoKeys
			return Change{}
		case next != nil:
			refused = fmt.Errorf("%w: %s, from %s", ErrWaiting, next.ID, c.policy.signsFrom(*next).UTC().Format(time.RFC3339))
			return Change{}
		}
		made = introduce(fresh, Next, active.TokenTTL, now)
		return Change{Insert: made, At: now}
	})
	if err := errors.Join(err, refused); err != nil {
		return Key{}, err
	}
	return c.describe(*made), nil
}

// Retire takes a key out at once: it is deleted, and what it signed does not verify
// any more. Where it is the active one, the next key signs from now on, or a new one
// if none waits; that cannot have been published long enough, or at all. Retire
// answers the key that signs now, and ErrUnknown or ErrGone.
func (c *Custodian) Retire(ctx context.Context, kid string) (Key, error) {
	records, err := c.store.Keys(ctx)
	if err != nil {
		return Key{}, err
	}
	var fresh Record
	if record := named(records, kid); record != nil && record.State == Active {
		if fresh, err = c.successor(*record); err != nil {
			return Key{}, err
		}
	}
	var signs *Record
	var refused error
	err = c.store.Change(ctx, func(current []Record, now time.Time) (change Change) {
		change, signs, refused = retire(current, kid, fresh, now)
		return change
	})
	if err := errors.Join(err, refused); err != nil {
		return Key{}, err
	}
	return c.describe(*signs), nil
}

// errMoved means that the key began to sign between two looks at it.
var errMoved = errors.New("this key has begun to sign just now; repeat the command")

// retire decides what taking a key out means, and which key signs then.
func retire(records []Record, kid string, fresh Record, now time.Time) (Change, *Record, error) {
	record, active, next := named(records, kid), find(records, Active), find(records, Next)
	change := Change{Bury: []string{kid}, At: now}
	switch {
	case record == nil:
		return Change{}, nil, ErrUnknown
	case record.State == Gone:
		return Change{}, nil, fmt.Errorf("%w, since %s", ErrGone, record.GoneAt.UTC().Format(time.RFC3339))
	case active == nil:
		return Change{}, nil, ErrNoKeys
	case record.State != Active:
		return change, active, nil
	case next != nil:
		change.Activate = next.ID
		next.State, next.ActivatedAt = Active, &now
		return change, next, nil
	case fresh.ID == "":
		return Change{}, nil, errMoved
	default:
		change.Insert = introduce(fresh, Active, record.TokenTTL, now)
		return change, change.Insert, nil
	}
}

// successor makes a key like another one. That one is opened first: a key sealed
// under the wrong KEY_ENCRYPTION_KEY would be of no use to any replica.
func (c *Custodian) successor(of Record) (Record, error) {
	if _, err := c.sealer.open(of.ID, of.Algorithm, of.Sealed); err != nil {
		return Record{}, err
	}
	return generate(c.sealer, of.Algorithm)
}
