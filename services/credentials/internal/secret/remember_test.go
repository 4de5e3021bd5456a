package secret

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/config"
)

// countingHasher says that a secret matches the hash that is its own text.
type countingHasher struct {
	computed int
	err      error
}

func (c *countingHasher) Hash(_ context.Context, s config.Secret) ([]byte, error) {
	c.computed++
	return []byte(s.Reveal()), c.err
}

func (c *countingHasher) Matches(_ context.Context, hash []byte, s config.Secret) (bool, error) {
	c.computed++
	return string(hash) == s.Reveal(), c.err
}

func TestAMatchIsComputedOnce(t *testing.T) {
	t.Parallel()
	inner := &countingHasher{}
	hasher := NewRemembering(inner)
	for range 3 {
		ok, err := hasher.Matches(t.Context(), []byte("one"), "one")
		require.NoError(t, err)
		require.True(t, ok)
	}
	require.Equal(t, 1, inner.computed)

	for range 2 {
		ok, err := hasher.Matches(t.Context(), []byte("one"), "two")
		require.NoError(t, err)
		require.False(t, ok, "a right secret of before helps no wrong one")
		ok, err = hasher.Matches(t.Context(), []byte("two"), "one")
		require.NoError(t, err)
		require.False(t, ok, "nor the right secret another hash")
	}
	require.Equal(t, 5, inner.computed, "what does not match is computed each time")
}

func TestASecretThatWasHashedHereMatchesWithoutComputing(t *testing.T) {
	t.Parallel()
	inner := &countingHasher{}
	hasher := NewRemembering(inner)
	hash, err := hasher.Hash(t.Context(), "new")
	require.NoError(t, err)
	ok, err := hasher.Matches(t.Context(), hash, "new")
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, 1, inner.computed)
}

func TestWhatIsRememberedMeansNothingToAnotherProcess(t *testing.T) {
	t.Parallel()
	one, other := newMatches(0), newMatches(0)
	require.Equal(t, one.digest([]byte("hash"), "secret"), one.digest([]byte("hash"), "secret"))
	require.NotEqual(t, one.digest([]byte("hash"), "secret"), other.digest([]byte("hash"), "secret"))
}

func TestAFailureIsNotRemembered(t *testing.T) {
	t.Parallel()
	inner := &countingHasher{err: errors.New("no free core")}
	hasher := NewRemembering(inner)
	_, err := hasher.Hash(t.Context(), "new")
	require.Error(t, err)
	_, err = hasher.Matches(t.Context(), []byte("new"), "new")
	require.Error(t, err)
	inner.err = nil
	ok, err := hasher.Matches(t.Context(), []byte("new"), "new")
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, 3, inner.computed)
}
