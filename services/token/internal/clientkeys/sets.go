// Package clientkeys finds the public keys that clients publish at a URI of theirs
// (jwks_uri), and remembers them for a while. The URI is a stranger's: this package
// must never connect to what is not on the public internet, nor let whoever sends
// requests here decide how often somebody else's server is asked.
package clientkeys

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/maypok86/otter/v2"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/singleflight"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/jwk"
	"github.com/sentryagent/agentidp/services/token/internal/issue"
)

const (
	// freshFor is how old a set gets before it is fetched again when it is needed: what JWKS documents commonly
	// allow to be cached, and the longest that a key is still good after its client took it out.
	freshFor = 5 * time.Minute
	// keptFor is how long a set is used while its server does not answer, so that a restart there stops nobody.
	keptFor = 15 * time.Minute
	// insufficientEvery is how often a fresh set is fetched again because it lacks a key.
	insufficientEvery = time.Minute
	// failedEvery is how often a server that failed is asked again.
	failedEvery = 10 * time.Second
	// capacity bounds what is remembered: the octets of all sets, and what goes with each.
	capacity  = 32 << 20
	entrySize = 512
	// slots bounds the fetches at the same time: slow servers must not use up connections.
	slots     = 64
	cacheName = "client_keys"
)

// Config is what Sets needs.
type Config struct {
	// Fetch reads the document at a URI; (*Fetcher).Fetch is one.
	Fetch         func(ctx context.Context, uri string) ([]byte, error)
	Clock         func() time.Time
	Log           *slog.Logger
	CacheRequests *prometheus.CounterVec // labels cache, result
}

// Sets has the sets that clients publish. It is safe for concurrent use.
type Sets struct {
	Config

	cache     *otter.Cache[source, remembered]
	flights   singleflight.Group
	slots     chan struct{}
	hit, miss prometheus.Counter
}

var _ issue.PublishedKeys = (*Sets)(nil)

// source is whose set it is, and where. A client that moves its set starts afresh.
type source struct {
	clientID uuid.UUID
	uri      string
}

// remembered is what is known of a source. The zero value is nothing.
type remembered struct {
	keys      []jwk.Key
	size      int
	fetched   time.Time // when keys were; zero if they never were
	attempted time.Time
	err       error // of the last attempt
}

// New makes Sets.
func New(cfg Config) *Sets {
	return &Sets{
		Config: cfg,
		cache: otter.Must(&otter.Options[source, remembered]{
			MaximumWeight: capacity,
			Weigher: func(from source, entry remembered) uint32 {
				return uint32(entrySize + len(from.uri) + entry.size) // #nosec G115 -- some 64 KiB at most
			},
			ExpiryCalculator: otter.ExpiryWriting[source, remembered](keptFor),
		}),
		slots: make(chan struct{}, slots),
		hit:   cfg.CacheRequests.WithLabelValues(cacheName, "hit"),
		miss:  cfg.CacheRequests.WithLabelValues(cacheName, "miss"),
	}
}

var errBusy = errors.New("too many sets of clients are being fetched")

// Keys answers the client's set at uri. One that is remembered is fetched again when
// it is 5 minutes old, or, at most once a minute, when it does not suffice. While its
// server fails, which is asked every 10 s at most, a set of up to 15 minutes is used if
// it suffices; else the error is SERVICE_UNAVAILABLE, as the key may be there.
func (s *Sets) Keys(ctx context.Context, clientID uuid.UUID, uri string, suffices func([]jwk.Key) bool) ([]jwk.Key, error) {
	from := source{clientID, uri}
	entry, _ := s.cache.GetIfPresent(from)
	if !entry.due(s.Clock(), suffices) {
		s.hit.Inc()
		return entry.answer(s.Clock(), suffices)
	}
	s.miss.Inc()
	flight := s.flights.DoChan(clientID.String()+uri, func() (any, error) {
		// Who comes after a flight has landed finds what it brought.
		if entry, _ := s.cache.GetIfPresent(from); !entry.due(s.Clock(), suffices) {
			return entry, nil
		}
		// Not the first asker's context: others wait for the same answer.
		return s.fetch(context.WithoutCancel(ctx), from), nil
	})
	select {
	case <-ctx.Done():
		return nil, apperr.Unavailable(ctx.Err())
	case landed := <-flight:
		return landed.Val.(remembered).answer(s.Clock(), suffices) //nolint:forcetypeassert // the flight returns nothing else
	}
}

// due tells whether it is time to fetch.
func (r remembered) due(now time.Time, suffices func([]jwk.Key) bool) bool {
	pause := failedEvery
	if r.fresh(now) {
		if suffices(r.keys) {
			return false
		}
		pause = insufficientEvery
	}
	return r.attempted.IsZero() || now.Sub(r.attempted) >= pause
}

func (r remembered) fresh(now time.Time) bool {
	return !r.fetched.IsZero() && now.Sub(r.fetched) < freshFor
}

// answer gives the keys as far as they are known.
func (r remembered) answer(now time.Time, suffices func([]jwk.Key) bool) ([]jwk.Key, error) {
	kept := !r.fetched.IsZero() && now.Sub(r.fetched) < keptFor
	if r.err != nil && (!kept || !suffices(r.keys)) {
		return nil, apperr.Unavailable(r.err)
	}
	return r.keys, nil
}

// fetch asks the server and remembers what came of it; keys from before outlive a failure.
func (s *Sets) fetch(ctx context.Context, from source) remembered {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default:
		entry, _ := s.cache.GetIfPresent(from)
		entry.err = errBusy
		return entry
	}
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	body, err := s.Fetch(ctx, from.uri)
	var keys []jwk.Key
	if err == nil {
		keys, err = jwk.ReadClientSet(body)
	}
	now := s.Clock()
	entry, _ := s.cache.GetIfPresent(from)
	entry.attempted, entry.err = now, nil
	if err != nil {
		entry.err = fmt.Errorf("fetch the keys of a client: %w", err)
		s.Log.WarnContext(ctx, "the keys of a client could not be fetched",
			slog.String("client_id", from.clientID.String()), slog.String("uri", from.uri), slog.Any("error", err))
	} else {
		entry.keys, entry.size, entry.fetched = keys, len(body), now
	}
	s.cache.Set(from, entry)
	return entry
}
