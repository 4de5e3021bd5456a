package authn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/sentryagent/agentidp/pkg/idle"
)

const (
	// refreshEvery is how old a set gets: a fraction of the time a new key is published before it signs, and little enough
	// that a key which was compromised is not believed for long.
	refreshEvery = 5 * time.Second
	// unknownKeyInterval keeps tokens with invented key ids from becoming requests to the token service.
	unknownKeyInterval = 10 * time.Second
	// firstInterval is between attempts while no set is known at all.
	firstInterval = 500 * time.Millisecond
	// fetchTimeout bounds one attempt; it does not end with the request that asked for it, because others wait for it too.
	fetchTimeout = 5 * time.Second
)

var errNoKeys = errors.New("no signing keys known yet")

// RemoteKeys is a KeySet that is fetched and kept fresh. A set that was read once is kept until another one can be read. It
// is safe for concurrent use.
type RemoteKeys struct {
	fetch   func(context.Context) ([]byte, error)
	clock   func() time.Time
	log     *slog.Logger
	flights singleflight.Group

	mu        sync.RWMutex
	keys      map[string]Key
	attempted time.Time // the end of the last fetch
	fetched   time.Time // the end of the last fetch that succeeded
	asked     time.Time // the end of the last fetch that a request caused
	lastErr   error
}

// NewRemoteKeys gives a key set read with fetch, which returns a JWK set. Nothing is fetched before Key or Run.
func NewRemoteKeys(fetch func(context.Context) ([]byte, error), clock func() time.Time, log *slog.Logger) *RemoteKeys {
	return &RemoteKeys{fetch: fetch, clock: clock, log: log, lastErr: errNoKeys}
}

// Key gives the key with that id. An unknown id makes it fetch again, whatever Run does, at most once per 10 s (twice a
// second while nothing was ever fetched). ErrUnknownKey means that the last fetch succeeded and the key was not in it; if it failed, the error is
// another one, because the key may exist.
func (k *RemoteKeys) Key(ctx context.Context, kid string) (Key, error) {
	key, due, err := k.lookup(kid)
	if err == nil || !due {
		return key, err
	}
	done := k.flights.DoChan("", func() (any, error) {
		// Requests that arrive after a flight has landed find its result, not a flight of their own.
		if k.due() {
			k.refresh(context.WithoutCancel(ctx))
			k.mu.Lock()
			k.asked = k.clock()
			k.mu.Unlock()
		}
		return nil, nil
	})
	select {
	case <-done:
	case <-ctx.Done():
		return Key{}, ctx.Err()
	}
	key, _, err = k.lookup(kid)
	return key, err
}

// lookup gives the key or why there is none, and whether it is time to fetch.
func (k *RemoteKeys) lookup(kid string) (key Key, due bool, err error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if key, ok := k.keys[kid]; ok {
		return key, false, nil
	}
	if k.lastErr != nil {
		return Key{}, k.dueLocked(), k.lastErr
	}
	return Key{}, k.dueLocked(), ErrUnknownKey
}

func (k *RemoteKeys) due() bool {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.dueLocked()
}

// dueLocked does not count what Run fetches once there is a set, or Run would leave nothing to be done for a key that was
// made a moment ago.
func (k *RemoteKeys) dueLocked() bool {
	last, interval := k.asked, unknownKeyInterval
	if k.keys == nil {
		last, interval = k.attempted, firstInterval
	}
	return last.IsZero() || k.clock().Sub(last) >= interval
}

// refresh fetches and replaces the set; on failure the one before stays.
func (k *RemoteKeys) refresh(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	var parsed []Key
	data, err := k.fetch(ctx)
	if err == nil {
		parsed, err = ParseJWKS(data)
	}

	k.mu.Lock()
	defer k.mu.Unlock()
	k.attempted = k.clock()
	if err != nil {
		err = fmt.Errorf("fetch signing keys: %w", err)
		first := k.lastErr == nil || errors.Is(k.lastErr, errNoKeys)
		if first && !errors.Is(err, context.Canceled) {
			k.log.WarnContext(ctx, "signing keys could not be fetched", slog.Any("error", err), slog.Int("known", len(k.keys)))
		}
		k.lastErr = err
		return
	}
	fresh := make(map[string]Key, len(parsed))
	for _, key := range parsed {
		fresh[key.ID] = key
	}
	if k.lastErr != nil || !maps.EqualFunc(k.keys, fresh, func(a, b Key) bool { return a.Algorithm == b.Algorithm }) {
		k.log.InfoContext(ctx, "signing keys fetched", slog.Any("kids", slices.Sorted(maps.Keys(fresh))))
	}
	k.keys, k.lastErr, k.fetched = fresh, nil, k.attempted
}

// Run fetches until there is a set and then every 5 seconds, until ctx is done. It returns nil.
func (k *RemoteKeys) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		_, _, _ = k.flights.Do("", func() (any, error) {
			k.refresh(ctx)
			return nil, nil
		})
		_ = idle.For(ctx, k.pause())
	}
	return nil
}

// Fetched is when the set was last read, zero before the first time. Keys that were taken out since are still believed.
func (k *RemoteKeys) Fetched() time.Time {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.fetched
}

// pause is how long Run waits after an attempt.
func (k *RemoteKeys) pause() time.Duration {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.keys == nil {
		return firstInterval
	}
	return refreshEvery
}

// Ready is nil once a key set is known.
func (k *RemoteKeys) Ready(context.Context) error {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.keys == nil {
		return k.lastErr
	}
	return nil
}
