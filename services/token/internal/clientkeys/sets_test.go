package clientkeys_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/jwk"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/pkg/testkit"
	"github.com/sentryagent/agentidp/services/token/internal/clientkeys"
)

// bundle is Sets over a server that publishes what the test says.
type bundle struct {
	sets    *clientkeys.Sets
	clock   *testkit.Clock
	metrics *telemetry.Metrics

	mu      sync.Mutex
	publish []string // kids
	body    []byte   // instead of a set
	err     error
	fetched []string // URIs
	wait    chan struct{}
}

func setup() *bundle {
	b := &bundle{clock: testkit.NewClock(time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)), metrics: telemetry.NewMetrics()}
	b.sets = clientkeys.New(clientkeys.Config{
		Fetch: b.fetch, Clock: b.clock.Now, Log: slog.New(slog.DiscardHandler), CacheRequests: b.metrics.CacheRequests,
	})
	return b
}

func (b *bundle) fetch(ctx context.Context, uri string) ([]byte, error) {
	if b.wait != nil {
		select {
		case <-b.wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fetched = append(b.fetched, uri)
	if b.err != nil || b.body != nil {
		return b.body, b.err
	}
	var keys []jwk.Key
	for _, kid := range b.publish {
		public, _, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		keys = append(keys, jwk.Key{ID: kid, Public: public})
	}
	return jwk.MarshalSet(keys)
}

var clientID = uuid.MustParse("019aa9c0-7d52-7c3e-9b0a-5f0d3c1e8a41")

// with suffices if a key of that id is there.
func with(kid string) func([]jwk.Key) bool {
	return func(keys []jwk.Key) bool {
		for _, key := range keys {
			if key.ID == kid {
				return true
			}
		}
		return false
	}
}

// ask answers whether there is a key of that id.
func (b *bundle) ask(t *testing.T, kid string) (found bool, err error) {
	t.Helper()
	keys, err := b.sets.Keys(t.Context(), clientID, theURI, with(kid))
	return with(kid)(keys), err
}

func (b *bundle) requireFound(t *testing.T, kid string) {
	t.Helper()
	found, err := b.ask(t, kid)
	require.NoError(t, err)
	require.True(t, found)
}

func (b *bundle) requireMissing(t *testing.T, kid string) {
	t.Helper()
	found, err := b.ask(t, kid)
	require.NoError(t, err)
	require.False(t, found)
}

func (b *bundle) requireUnknown(t *testing.T, kid string) {
	t.Helper()
	_, err := b.ask(t, kid)
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
}

func TestASetIsRememberedForFiveMinutes(t *testing.T) {
	t.Parallel()
	b := setup()
	b.publish = []string{"a"}
	b.requireFound(t, "a")
	b.clock.Advance(5*time.Minute - 1)
	b.requireFound(t, "a")
	require.Len(t, b.fetched, 1)
	b.publish = []string{"b"}
	b.clock.Advance(1)
	b.requireMissing(t, "a")
	b.requireFound(t, "b")
	require.Equal(t, []string{theURI, theURI}, b.fetched)
	require.InDelta(t, 2, testutil.ToFloat64(b.metrics.CacheRequests.WithLabelValues("client_keys", "hit")), 0)
	require.InDelta(t, 2, testutil.ToFloat64(b.metrics.CacheRequests.WithLabelValues("client_keys", "miss")), 0)
}

func TestAMissingKeyIsLookedForOnceAMinute(t *testing.T) {
	t.Parallel()
	b := setup()
	b.publish = []string{"a"}
	b.requireFound(t, "a")
	b.publish = []string{"a", "b"}
	for range 100 {
		b.requireMissing(t, "b")
		b.requireMissing(t, "invented")
	}
	require.Len(t, b.fetched, 1)
	b.clock.Advance(time.Minute)
	b.requireFound(t, "b")
	for range 100 {
		b.requireMissing(t, "invented")
	}
	require.Len(t, b.fetched, 2)
}

func TestWhoAsksAsAFetchEndsFindsWhatItBrought(t *testing.T) {
	t.Parallel()
	b := setup()
	b.publish = []string{"a"}
	b.requireFound(t, "a")
	b.publish = []string{"a", "b"}
	b.clock.Advance(time.Minute)
	meanwhile := sync.OnceFunc(func() { b.requireFound(t, "b") })
	keys, err := b.sets.Keys(t.Context(), clientID, theURI, func(keys []jwk.Key) bool {
		defer meanwhile() // once what is remembered was judged
		return with("b")(keys)
	})
	require.NoError(t, err)
	require.True(t, with("b")(keys))
	require.Len(t, b.fetched, 2)
}

func TestWhatCannotBeFetchedIsNotGuessed(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(*bundle){
		"the server does not answer": func(b *bundle) { b.err = errors.New("connection refused") },
		"it is no set":               func(b *bundle) { b.body = []byte(`{"keys":7}`) },
		"it is no JSON":              func(b *bundle) { b.body = []byte("<html>") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup()
			b.publish = []string{"a"}
			fail(b)
			for range 100 {
				b.requireUnknown(t, "a")
			}
			require.Len(t, b.fetched, 1, "a server that fails is left alone for a while")
			b.clock.Advance(10 * time.Second)
			b.requireUnknown(t, "a")
			require.Len(t, b.fetched, 2)
			b.clock.Advance(10 * time.Second)
			b.err, b.body = nil, nil
			b.requireFound(t, "a")
		})
	}
}

func TestASetOutlivesItsServerForAWhile(t *testing.T) {
	t.Parallel()
	b := setup()
	b.publish = []string{"a"}
	b.requireFound(t, "a")
	b.err = errors.New("connection refused")
	b.clock.Advance(time.Minute)
	b.requireUnknown(t, "b") // it may have been added
	b.requireFound(t, "a")
	require.Len(t, b.fetched, 2)
	b.clock.Advance(30 * time.Second)
	b.requireUnknown(t, "b")
	require.Len(t, b.fetched, 2, "once a minute, whether it fails or not")

	for range 13 {
		b.clock.Advance(time.Minute)
		b.requireFound(t, "a")
	}
	b.clock.Advance(30 * time.Second) // 15 minutes in all
	b.requireUnknown(t, "a")
}

func TestAnEmptySetIsAnAnswer(t *testing.T) {
	t.Parallel()
	b := setup()
	b.requireMissing(t, "a")
	b.requireMissing(t, "a")
	require.Len(t, b.fetched, 1)
}

func TestAClientThatMovesItsSetStartsAfresh(t *testing.T) {
	t.Parallel()
	b := setup()
	b.publish = []string{"a"}
	b.requireFound(t, "a")
	const moved = "https://example.com/moved"
	_, err := b.sets.Keys(t.Context(), clientID, moved, with("a"))
	require.NoError(t, err)
	_, err = b.sets.Keys(t.Context(), uuid.Must(uuid.NewV7()), theURI, with("a"))
	require.NoError(t, err)
	require.Equal(t, []string{theURI, moved, theURI}, b.fetched, "nor has anybody another's")
}

func TestManyAtOnceFetchOnce(t *testing.T) {
	t.Parallel()
	b := setup() // outside: the cache has a goroutine of its own
	synctest.Test(t, func(t *testing.T) {
		b.publish, b.wait = []string{"a"}, make(chan struct{})
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				_, err := b.sets.Keys(t.Context(), clientID, theURI, with("a"))
				require.NoError(t, err)
			})
		}
		impatient, cancel := context.WithCancel(t.Context())
		gaveUp := make(chan error, 1)
		go func() {
			_, err := b.sets.Keys(impatient, clientID, theURI, with("a"))
			gaveUp <- err
		}()
		synctest.Wait()
		cancel()
		require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(<-gaveUp))
		close(b.wait)
		all.Wait()
		require.Len(t, b.fetched, 1)
	})
}

func TestSlowServersDoNotTakeUpEverything(t *testing.T) {
	t.Parallel()
	b := setup() // outside: the cache has a goroutine of its own
	synctest.Test(t, func(t *testing.T) {
		b.publish = []string{"kept"}
		b.requireFound(t, "kept")
		b.clock.Advance(5 * time.Minute)
		b.publish, b.wait = nil, make(chan struct{})
		var all sync.WaitGroup
		for range 64 {
			all.Go(func() {
				_, _ = b.sets.Keys(t.Context(), uuid.Must(uuid.NewV7()), theURI, with("a"))
			})
		}
		synctest.Wait()
		b.requireUnknown(t, "a")
		b.requireFound(t, "kept")
		close(b.wait)
		all.Wait()
		require.Len(t, b.fetched, 65)
		b.publish = []string{"a"}
		b.requireFound(t, "a")
	})
}
