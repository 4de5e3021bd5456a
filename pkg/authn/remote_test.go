package authn_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/authn"
)

// keyServer stands in for the token service.
type keyServer struct {
	mu    sync.Mutex
	keys  []authn.Key
	err   error
	calls int
}

func (s *keyServer) fetch(context.Context) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	if s.err != nil {
		return nil, s.err
	}
	return authn.MarshalJWKS(s.keys)
}

func (s *keyServer) set(err error, keys ...authn.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys, s.err = keys, err
}

func (s *keyServer) called() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls
}

// clock stands until a test moves it.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

func remote() (*authn.RemoteKeys, *keyServer, *clock) {
	server, clock := &keyServer{keys: keySet()[:1]}, &clock{at: now}
	return authn.NewRemoteKeys(server.fetch, clock.now, slog.New(slog.DiscardHandler)), server, clock
}

func TestRemoteKeysFetchesOnTheFirstUseAndThenRemembers(t *testing.T) {
	t.Parallel()
	keys, server, _ := remote()
	require.Error(t, keys.Ready(t.Context()))
	for range 3 {
		k, err := keys.Key(t.Context(), "rsa")
		require.NoError(t, err)
		require.Equal(t, keySet()[0], k)
	}
	require.Equal(t, 1, server.called())
	require.NoError(t, keys.Ready(t.Context()))
}

func TestRemoteKeysAsksForAnUnknownKeyAtMostOncePerTenSeconds(t *testing.T) {
	t.Parallel()
	keys, server, clock := remote()
	for range 5 {
		_, err := keys.Key(t.Context(), "ec")
		require.ErrorIs(t, err, authn.ErrUnknownKey)
	}
	require.Equal(t, 1, server.called())

	server.set(nil, keySet()...)
	clock.advance(9 * time.Second)
	_, err := keys.Key(t.Context(), "ec")
	require.ErrorIs(t, err, authn.ErrUnknownKey)
	clock.advance(time.Second)
	_, err = keys.Key(t.Context(), "ec")
	require.NoError(t, err)
	require.Equal(t, 2, server.called())
}

func TestRemoteKeysAsksForAnUnknownKeyWhileItIsKeptFresh(t *testing.T) {
	t.Parallel()
	keys, server, _ := remote()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- keys.Run(ctx) }()
	require.Eventually(t, func() bool { return keys.Ready(ctx) == nil }, 5*time.Second, time.Millisecond)

	server.set(nil, keySet()...)
	_, err := keys.Key(ctx, "ec")
	require.NoError(t, err, "a key that was made right after the last fetch")
	calls := server.called()
	_, err = keys.Key(ctx, "garbage")
	require.ErrorIs(t, err, authn.ErrUnknownKey)
	require.Equal(t, calls, server.called(), "as the clock stands")
	cancel()
	require.NoError(t, <-ended)
}

func TestRemoteKeysForgetsKeysThatAreGone(t *testing.T) {
	t.Parallel()
	keys, server, clock := remote()
	_, err := keys.Key(t.Context(), "rsa")
	require.NoError(t, err)
	server.set(nil, keySet()[1])
	clock.advance(10 * time.Second)
	_, err = keys.Key(t.Context(), "ec")
	require.NoError(t, err)
	_, err = keys.Key(t.Context(), "rsa")
	require.ErrorIs(t, err, authn.ErrUnknownKey)
}

func TestRemoteKeysKeepsTheLastSetAndDoesNotGuessAboutOtherKeys(t *testing.T) {
	t.Parallel()
	keys, server, clock := remote()
	_, err := keys.Key(t.Context(), "rsa")
	require.NoError(t, err)

	down := errors.New("connection refused")
	server.set(down)
	clock.advance(10 * time.Second)
	_, err = keys.Key(t.Context(), "ec")
	require.ErrorIs(t, err, down)
	require.NotErrorIs(t, err, authn.ErrUnknownKey)
	_, err = keys.Key(t.Context(), "rsa")
	require.NoError(t, err)
	require.NoError(t, keys.Ready(t.Context()))
	require.Equal(t, 2, server.called())
	require.Equal(t, clock.now().Add(-10*time.Second), keys.Fetched(), "when it last succeeded")
}

func TestRemoteKeysTriesTwiceASecondUntilThereIsASet(t *testing.T) {
	t.Parallel()
	keys, server, clock := remote()
	down := errors.New("connection refused")
	server.set(down)
	for range 3 {
		_, err := keys.Key(t.Context(), "rsa")
		require.ErrorIs(t, err, down)
	}
	require.Equal(t, 1, server.called())
	server.set(nil, keySet()...)
	clock.advance(500 * time.Millisecond)
	_, err := keys.Key(t.Context(), "rsa")
	require.NoError(t, err)
}

func TestRemoteKeysRefusesAnEmptySet(t *testing.T) {
	t.Parallel()
	keys, server, _ := remote()
	server.set(nil)
	_, err := keys.Key(t.Context(), "rsa")
	require.NotErrorIs(t, err, authn.ErrUnknownKey)
	require.Error(t, keys.Ready(t.Context()))
}

// askAtOnce has many ask for a key; the func waits until all have it.
func askAtOnce(t *testing.T, keys *authn.RemoteKeys) (wait func()) {
	t.Helper()
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			_, err := keys.Key(context.Background(), "rsa")
			if err != nil {
				t.Error(err)
			}
		})
	}
	return group.Wait
}

func TestRemoteKeysFetchesOnceForManyRequests(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	server := &keyServer{keys: keySet()}
	keys := authn.NewRemoteKeys(func(ctx context.Context) ([]byte, error) {
		<-release
		return server.fetch(ctx)
	}, time.Now, slog.New(slog.DiscardHandler))

	answered := askAtOnce(t, keys)
	// One that gives up does not take the fetch away from the others.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := keys.Key(ctx, "rsa")
	require.ErrorIs(t, err, context.Canceled)
	close(release)
	answered()
	require.Equal(t, 1, server.called())
}

func TestRemoteKeysFetchesOnceAlsoForARequestThatComesAsAFetchEnds(t *testing.T) {
	t.Parallel()
	for range 200 { // which moment each comes at, nobody can say
		keys, server, _ := remote()
		askAtOnce(t, keys)()
		require.Equal(t, 1, server.called())
	}
}

func TestRemoteKeysRunFetchesUntilThereIsASet(t *testing.T) {
	t.Parallel()
	keys, server, _ := remote()
	server.set(errors.New("connection refused"))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- keys.Run(ctx) }()
	require.Eventually(t, func() bool { return server.called() >= 1 }, 5*time.Second, time.Millisecond)
	require.Error(t, keys.Ready(ctx))
	server.set(nil, keySet()...)
	require.Eventually(t, func() bool { return keys.Ready(ctx) == nil }, 5*time.Second, time.Millisecond)

	// A key that is taken out is forgotten within seconds, although nobody asks for another one.
	server.set(nil, keySet()[1])
	require.Eventually(t, func() bool {
		_, err := keys.Key(ctx, "rsa")
		return errors.Is(err, authn.ErrUnknownKey)
	}, 10*time.Second, 10*time.Millisecond)
	cancel()
	require.NoError(t, <-ended)
}
