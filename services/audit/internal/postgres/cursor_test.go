package postgres_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/testkit"
)

func TestOneReplicaAtATimePublishesOnward(t *testing.T) {
	t.Parallel()
	admin := testkit.Postgres(t, "audit")
	store, one, other := open(t, testkit.Open(t, admin.AppURL)), uuid.New(), uuid.New()
	next, ok, err := store.Lease(t.Context(), one, time.Hour)
	require.NoError(t, err)
	require.True(t, ok)
	require.Zero(t, next)
	_, ok, err = store.Lease(t.Context(), other, time.Hour)
	require.NoError(t, err)
	require.False(t, ok, "while the first one does")
	for from, moves := range map[int64]bool{7: false, 0: true} {
		ok, err = store.Advance(t.Context(), one, from, 5)
		require.NoError(t, err)
		require.Equal(t, moves, ok, "from %d", from)
	}
	ok, err = store.Advance(t.Context(), other, 5, 9)
	require.NoError(t, err)
	require.False(t, ok)

	_, err = testkit.Open(t, admin.AdminURL).Exec(t.Context(), "UPDATE audit.cursors SET held_until = now() - interval '1 second'")
	require.NoError(t, err)
	next, ok, err = store.Lease(t.Context(), other, time.Hour)
	require.NoError(t, err)
	require.True(t, ok, "the first one was not heard of for too long")
	require.EqualValues(t, 5, next)
	ok, err = store.Advance(t.Context(), one, 5, 9)
	require.NoError(t, err)
	require.False(t, ok)
}
