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
	"github.com/sentryagent/agentidp/pkg/idle"

	"github.com/sentryagent/agentidp/pkg/jwk"
)

const (
	// reloadEvery is how soon a replica sees what another one, or an operator, changed.
	reloadEvery = 3 * time.Second
	// retryEvery is the pause after a pass that failed.
	retryEvery = 500 * time.Millisecond
	// rereadEvery bounds the reads that requests cause.
	rereadEvery = time.Second
	// passTimeout bounds one pass over the stored keys.
	passTimeout = 5 * time.Second
	// cacheFor is how long a JWKS may be cached at most.
	cacheFor = 5 * time.Minute
	// cacheMargin covers clocks that differ, and a response's way to its cache.
	cacheMargin = 2 * time.Second
)

// MinPropagation is the shortest time to publish a key before it signs in which
// all replicas and the other services, who ask every few seconds, learn of it.
const MinPropagation = 10 * time.Second

// RingConfig is what a Ring needs.
type RingConfig struct {
	Store       Store
	Sealer      *Sealer
	Algorithm   Algorithm
	TokenTTL    time.Duration    // the lifetime of the tokens this replica signs
	Propagation time.Duration    // how long a new key is published before it signs
	Rotation    time.Duration    // how long a key signs before the next one does; 0 = until told otherwise
	Import      *PrivateKey      // an operator's own key; nil for none
	Clock       func() time.Time // tells how old a view is; when keys change, the store's does
	Log         *slog.Logger
}

// Ring is this replica's view of the shared keys. It goes on with the last view
// it had while the store is away, and signs for an hour then. It is an authn.KeySet.
type Ring struct {
	store    Store
	sealer   *Sealer
	policy   policy
	imported *PrivateKey
	clock    func() time.Time
	log      *slog.Logger

	view    atomic.Pointer[view]
	started atomic.Bool
	reading singleflight.Group
	mu      sync.Mutex // one rebuild of the view at a time
}

var _ authn.KeySet = (*Ring)(nil)

// view is an immutable picture of the keys.
type view struct {
	readAt time.Time   // right before the keys were read
	signs  string      // the id of the active key
	signer *SigningKey // nil while that would go before the tokens of this replica
	keys   map[string]*entry
	jwks   Document
}

type entry struct {
	record  Record
	signing *SigningKey
	public  authn.Key
}

// Document is a JWKS with its entity tag, quotes included, and how long it may be cached.
type Document struct {
	Body   []byte
	ETag   string
	MaxAge time.Duration // whole seconds
}

// NewRing makes an empty ring; Run fills it.
func NewRing(cfg RingConfig) *Ring {
	return &Ring{
		store:  cfg.Store,
		sealer: cfg.Sealer,
		policy: policy{
			algorithm: cfg.Algorithm, tokenTTL: cfg.TokenTTL,
			propagation: cfg.Propagation, rotation: cfg.Rotation,
		},
		imported: cfg.Import,
		clock:    cfg.Clock,
		log:      cfg.Log,
	}
}

// Run loads the keys, makes the first one if there is none, moves them on, and
// follows what other replicas do, until ctx is done. It never gives up.
func (r *Ring) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		pause := reloadEvery
		if err := r.Pass(ctx); err != nil && ctx.Err() == nil {
			r.log.WarnContext(ctx, "signing keys could not be read or moved on", slog.Any("error", err))
			pause = retryEvery
		}
		_ = idle.For(ctx, pause)
	}
	return nil
}

// Pass does once what Run does again and again.
func (r *Ring) Pass(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, passTimeout)
	defer cancel()
	// A replica that cannot open the keys there are must not add one that the others cannot open.
	records, err := r.read(ctx)
	if err != nil {
		return err
	}
	changed, err := r.change(ctx, records)
	if err != nil {
		return err
	}
	r.started.Store(true)
	if changed {
		_, err = r.read(ctx)
	}
	return err
}

// change does what is to be done, if anything is. The clock of this machine decides
// only whether to look closer: a wrong one costs a look, or time, and no promise.
func (r *Ring) change(ctx context.Context, records []Record) (bool, error) {
	why := occasion{starting: !r.started.Load(), importing: r.importing(ctx, records)}
	var fresh *Record
	if r.policy.wants(find(records, Active), r.policy.waiting(records, why), why, r.clock()) != "" {
		// Made before the lock is taken: an RSA key takes its time.
		record, err := r.newcomer(why)
		if err != nil {
			return false, err
		}
		fresh = &record
	}
	if r.policy.decide(records, fresh, why, r.clock()).empty() {
		return false, nil
	}
	var done Change
	err := r.store.Change(ctx, func(current []Record, now time.Time) Change {
		done = r.policy.decide(current, fresh, why, now)
		return done
	})
	if err == nil && len(done.Withdraw) > 0 {
		r.log.WarnContext(ctx, "a key of another algorithm than SIGNING_ALG waited to sign and was taken back; "+
			"where SIGNING_ALG is being changed, restart a replica that has the new one",
			slog.Any("kids", done.Withdraw), slog.String("algorithm", string(r.policy.algorithm)))
	}
	return true, err
}

// importing says whether the operator's key has still to come in: once it was
// known, it never does again, whatever became of it.
func (r *Ring) importing(ctx context.Context, records []Record) bool {
	if r.imported == nil {
		return false
	}
	kid, err := jwk.Key{Public: r.imported.signer.Public()}.Thumbprint()
	if err != nil {
		return false
	}
	record := named(records, kid)
	if record != nil && record.State == Gone && !r.started.Load() {
		r.log.WarnContext(ctx, "the key in JWT_PRIVATE_KEY was in use before and is gone; it is not imported again",
			slog.String("kid", kid))
	}
	return record == nil
}

// newcomer is a key that is not stored yet: the operator's while that has to come in.
func (r *Ring) newcomer(why occasion) (Record, error) {
	if why.importing {
		return sealNew(r.sealer, *r.imported)
	}
	return generate(r.sealer, r.policy.algorithm)
}

func generate(sealer *Sealer, algorithm Algorithm) (Record, error) {
	private, err := algorithm.generate()
	if err != nil {
		return Record{}, fmt.Errorf("generate a signing key: %w", err)
	}
	return sealNew(sealer, PrivateKey{algorithm, private})
}

func sealNew(sealer *Sealer, key PrivateKey) (Record, error) {
	kid, err := jwk.Key{Public: key.signer.Public()}.Thumbprint()
	if err != nil {
		return Record{}, err
	}
	sealed, err := sealer.seal(kid, key.Algorithm, key.signer)
	if err != nil {
		return Record{}, err
	}
	return Record{ID: kid, Algorithm: key.Algorithm, Sealed: sealed}, nil
}

// read takes a fresh view of the stored keys and answers them.
func (r *Ring) read(ctx context.Context) ([]Record, error) {
	readAt := r.clock()
	records, err := r.store.Keys(ctx)
	if err != nil {
		return nil, err
	}
	return records, r.build(ctx, records, readAt)
}

// build makes the view of these records; keys that were opened before are not opened again.
func (r *Ring) build(ctx context.Context, records []Record, readAt time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	previous := r.view.Load()
	if previous != nil && previous.readAt.After(readAt) {
		return nil
	}
	fresh := &view{readAt: readAt, keys: make(map[string]*entry, len(records))}
	var active *SigningKey
	for _, record := range records {
		if record.State == Gone {
			continue
		}
		item, err := r.entry(previous, record)
		if err != nil {
			return err
		}
		fresh.keys[record.ID] = item
		if record.State == Active {
			active = item.signing
			if record.TokenTTL >= r.policy.tokenTTL {
				fresh.signer = active
			}
		}
	}
	if active == nil {
		return nil // the first key is still to be made
	}
	document, err := publish(fresh.keys)
	if err != nil {
		return err
	}
	fresh.jwks = document
	fresh.signs = active.ID
	r.view.Store(fresh)
	if previous == nil || previous.jwks.ETag != document.ETag || previous.signs != fresh.signs {
		r.log.InfoContext(ctx, "signing keys changed", slog.String("signs", fresh.signs), slog.Any("published", fresh.states()))
	}
	return nil
}

// states tells of each published key what it is for.
func (v *view) states() map[string]State {
	states := make(map[string]State, len(v.keys))
	for kid, item := range v.keys {
		states[kid] = item.record.State
	}
	return states
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
// keys were first read, and where that was more than an hour ago: the key may be
// retired, and gone before a token expires that is signed now. So it is where this replica's
// tokens live longer than those of the others, until the key is to be kept for them.
func (r *Ring) Signer() (*SigningKey, error) {
	current := r.view.Load()
	switch {
	case current == nil:
		return nil, apperr.Unavailable(errNotLoaded)
	case r.clock().Sub(current.readAt) > signsUnread:
		return nil, apperr.Unavailable(errTooOld)
	case current.signer == nil:
		return nil, apperr.Unavailable(errGoesTooSoon)
	default:
		return current.signer, nil
	}
}

// Ready is nil once keys were read that it could sign with, however long ago that was: a replica whose keys have become too
// old to sign with goes on publishing them, and verifying.
func (r *Ring) Ready() error {
	current := r.view.Load()
	switch {
	case current == nil:
		return errNotLoaded
	case current.signer == nil:
		return errGoesTooSoon
	default:
		return nil
	}
}

// JWKS answers the published keys; apperr.ServiceUnavailable before they were first
// read. It may be cached for 5 minutes, and never until a key that is not in it may
// sign: such a key was made after the keys were read, and is published for some time
// first. So less is allowed where that time is short, or the store has been away.
func (r *Ring) JWKS() (Document, error) {
	current := r.view.Load()
	if current == nil {
		return Document{}, apperr.Unavailable(errNotLoaded)
	}
	document := current.jwks
	complete := current.readAt.Add(r.policy.propagation - cacheMargin).Sub(r.clock())
	document.MaxAge = max(0, min(cacheFor, complete)).Truncate(time.Second)
	return document, nil
}

// CurrentJWKS answers the keys as the store has them now, to within a second, and
// reads it for that where it must; apperr.ServiceUnavailable when the store cannot be
// asked. It is for those who take a key that is not in the document for one that does
// not exist.
func (r *Ring) CurrentJWKS(ctx context.Context) (Document, error) {
	if !r.fresh() {
		if err := r.reread(ctx); err != nil {
			return Document{}, err
		}
	}
	return r.JWKS()
}

// Key finds a published key. An id it does not know makes it read the store
// again, at most once per second, as another replica may have made the key. It
// answers authn.ErrUnknownKey, or apperr.ServiceUnavailable when the store could
// not be asked.
func (r *Ring) Key(ctx context.Context, kid string) (authn.Key, error) {
	if key, ok := r.lookup(kid); ok {
		return key, nil
	}
	if r.fresh() {
		return authn.Key{}, authn.ErrUnknownKey
	}
	if err := r.reread(ctx); err != nil {
		return authn.Key{}, err
	}
	if key, ok := r.lookup(kid); ok {
		return key, nil
	}
	return authn.Key{}, authn.ErrUnknownKey
}

// fresh says whether the view is as good as one that would be read now.
func (r *Ring) fresh() bool {
	current := r.view.Load()
	return current != nil && r.clock().Sub(current.readAt) < rereadEvery
}

// reread takes a new view for a request.
func (r *Ring) reread(ctx context.Context) error {
	_, err, _ := r.reading.Do("reload", func() (any, error) {
		// Not the caller's context: others wait for the same read.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), passTimeout)
		defer cancel()
		_, err := r.read(ctx)
		return nil, err
	})
	if err != nil {
		return apperr.Unavailable(err)
	}
	return nil
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
