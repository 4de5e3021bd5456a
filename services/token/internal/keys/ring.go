package keys

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/authn"
)

const (
	// reloadEvery is how soon a replica sees what another one changed.
	reloadEvery = 3 * time.Second
	// retryEvery is the pause after a pass that failed.
	retryEvery = 500 * time.Millisecond
	// unknownEvery bounds the reads that unknown key ids cause.
	unknownEvery = time.Second
	// passTimeout bounds one pass over the stored keys.
	passTimeout = 5 * time.Second
)

// RingConfig is what a Ring needs.
type RingConfig struct {
	Store       Store
	Sealer      *Sealer
	Algorithm   Algorithm
	TokenTTL    time.Duration // the lifetime of the tokens this replica signs
	Propagation time.Duration // how long a new key is published before it signs
	Clock       func() time.Time
	Log         *slog.Logger
}

// Ring is this replica's view of the shared keys. It goes on with the last view
// it had while the store is away. It is an authn.KeySet.
type Ring struct {
	store  Store
	sealer *Sealer
	policy policy
	clock  func() time.Time
	log    *slog.Logger

	view       atomic.Pointer[view]
	introduced atomic.Bool
	reading    singleflight.Group
	mu         sync.Mutex // one rebuild of the view at a time
}

var _ authn.KeySet = (*Ring)(nil)

// view is an immutable picture of the keys.
type view struct {
	readAt time.Time
	signer *SigningKey
	keys   map[string]*entry
	jwks   Document
}

type entry struct {
	record  Record
	signing *SigningKey
	public  authn.Key
}

// Document is a JWKS with its entity tag, quotes included.
type Document struct {
	Body []byte
	ETag string
}

// NewRing makes an empty ring; Run fills it.
func NewRing(cfg RingConfig) *Ring {
	return &Ring{
		store:  cfg.Store,
		sealer: cfg.Sealer,
		policy: policy{algorithm: cfg.Algorithm, tokenTTL: cfg.TokenTTL, propagation: cfg.Propagation},
		clock:  cfg.Clock,
		log:    cfg.Log,
	}
}

// Run loads the keys, makes the first one if there is none, and follows what
// other replicas do, until ctx is done. It never gives up.
func (r *Ring) Run(ctx context.Context) error {
	for {
		pause := reloadEvery
		if err := r.Pass(ctx); err != nil && ctx.Err() == nil {
			r.log.WarnContext(ctx, "signing keys could not be read or moved on", slog.Any("error", err))
			pause = retryEvery
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// Pass does once what Run does again and again.
func (r *Ring) Pass(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, passTimeout)
	defer cancel()
	records, err := r.store.Keys(ctx)
	if err != nil {
		return err
	}
	if !r.introduced.Load() {
		if err := r.introduce(ctx, records); err != nil {
			return err
		}
		r.introduced.Store(true)
		return r.reload(ctx)
	}
	if !r.policy.advance(records, r.clock()).empty() {
		err := r.store.Change(ctx, func(current []Record) Change { return r.policy.advance(current, r.clock()) })
		if err != nil {
			return err
		}
		return r.reload(ctx)
	}
	return r.build(records)
}

func (r *Ring) introduce(ctx context.Context, records []Record) error {
	var candidate *Record
	if r.policy.newKey(records) != "" {
		// Made before the lock is taken: an RSA key takes its time.
		record, err := r.generate()
		if err != nil {
			return err
		}
		candidate = &record
	}
	if r.policy.introduce(records, candidate, r.clock()).empty() {
		return nil
	}
	return r.store.Change(ctx, func(current []Record) Change {
		return r.policy.introduce(current, candidate, r.clock())
	})
}

func (r *Ring) generate() (Record, error) {
	private, err := r.policy.algorithm.generate()
	if err != nil {
		return Record{}, fmt.Errorf("generate a signing key: %w", err)
	}
	kid, err := thumbprint(private.Public())
	if err != nil {
		return Record{}, err
	}
	sealed, err := r.sealer.seal(kid, r.policy.algorithm, private)
	if err != nil {
		return Record{}, err
	}
	return Record{ID: kid, Algorithm: r.policy.algorithm, Sealed: sealed}, nil
}

func (r *Ring) reload(ctx context.Context) error {
	records, err := r.store.Keys(ctx)
	if err != nil {
		return err
	}
	return r.build(records)
}

// build makes the view of these records; keys that were opened before are not opened again.
func (r *Ring) build(records []Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.clock()
	previous := r.view.Load()
	fresh := &view{readAt: now, keys: make(map[string]*entry, len(records))}
	for _, record := range records {
		if record.State == Retired && record.GoneAt != nil && !record.GoneAt.After(now) {
			continue
		}
		item, err := r.entry(previous, record)
		if err != nil {
			return err
		}
		fresh.keys[record.ID] = item
		if record.State == Active {
			fresh.signer = item.signing
		}
	}
	document, err := publish(fresh.keys)
	if err != nil {
		return err
	}
	fresh.jwks = document
	r.view.Store(fresh)
	return nil
}

func (r *Ring) entry(previous *view, record Record) (*entry, error) {
	if previous != nil {
		if known, ok := previous.keys[record.ID]; ok {
			item := *known
			item.record = record
			return &item, nil
		}
	}
	private, err := r.sealer.open(record.ID, record.Algorithm, record.Sealed)
	if err != nil {
		return nil, err
	}
	signing, err := newSigningKey(record.ID, record.Algorithm, private)
	if err != nil {
		return nil, err
	}
	return &entry{
		record:  record,
		signing: signing,
		public:  authn.Key{ID: record.ID, Algorithm: string(record.Algorithm), Public: private.Public()},
	}, nil
}

// publish writes the JWKS, newest key first.
func publish(keys map[string]*entry) (Document, error) {
	entries := make([]*entry, 0, len(keys))
	for _, item := range keys {
		entries = append(entries, item)
	}
	slices.SortFunc(entries, func(a, b *entry) int {
		if order := b.record.CreatedAt.Compare(a.record.CreatedAt); order != 0 {
			return order
		}
		return strings.Compare(a.record.ID, b.record.ID)
	})
	public := make([]authn.Key, 0, len(entries))
	for _, item := range entries {
		public = append(public, item.public)
	}
	body, err := authn.MarshalJWKS(public)
	if err != nil {
		return Document{}, fmt.Errorf("write the JWKS: %w", err)
	}
	sum := sha256.Sum256(body)
	return Document{Body: body, ETag: `"` + hex.EncodeToString(sum[:16]) + `"`}, nil
}

// Signer answers the key that signs now; apperr.ServiceUnavailable before the
// keys were first read.
func (r *Ring) Signer() (*SigningKey, error) {
	if current := r.view.Load(); current != nil && current.signer != nil {
		return current.signer, nil
	}
	return nil, apperr.Unavailable(errNotLoaded)
}

// JWKS answers the published keys; apperr.ServiceUnavailable before they were first read.
func (r *Ring) JWKS() (Document, error) {
	if current := r.view.Load(); current != nil {
		return current.jwks, nil
	}
	return Document{}, apperr.Unavailable(errNotLoaded)
}

// Key finds a published key. An id it does not know makes it read the store
// again, at most once per second, as another replica may have made the key. It
// answers authn.ErrUnknownKey, or apperr.ServiceUnavailable when the store could
// not be asked.
func (r *Ring) Key(ctx context.Context, kid string) (authn.Key, error) {
	if key, ok := r.lookup(kid); ok {
		return key, nil
	}
	current := r.view.Load()
	if current != nil && r.clock().Sub(current.readAt) < unknownEvery {
		return authn.Key{}, authn.ErrUnknownKey
	}
	_, err, _ := r.reading.Do("reload", func() (any, error) {
		// Not the caller's context: others wait for the same read.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), passTimeout)
		defer cancel()
		return nil, r.reload(ctx)
	})
	if err != nil {
		return authn.Key{}, apperr.Unavailable(err)
	}
	if key, ok := r.lookup(kid); ok {
		return key, nil
	}
	return authn.Key{}, authn.ErrUnknownKey
}

func (r *Ring) lookup(kid string) (authn.Key, bool) {
	current := r.view.Load()
	if current == nil {
		return authn.Key{}, false
	}
	item, ok := current.keys[kid]
	if !ok {
		return authn.Key{}, false
	}
	return item.public, true
}
