package postgres_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/testkit"
	"github.com/sentryagent/agentidp/services/audit/internal/onward"
)

func TestOneReplicaAtATimePublishesOnward(t *testing.T) {
	t.Parallel()
	admin := testkit.Postgres(t, "audit")
	store, one, other := open(t, testkit.Open(t, admin.AppURL)), uuid.New(), uuid.New()
	record(t, store, published(t, 1, nil), published(t, 2, nil))
	due, ok, err := store.Lease(t.Context(), one, time.Hour)
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, onward.Due{Next: 0, Size: 2}, due)
	_, ok, err = store.Lease(t.Context(), other, time.Hour)
	require.NoError(t, err)
	require.False(t, ok, "while the first one does")
	for from, moves := range map[int64]bool{7: false, 0: true} {
		ok, err = store.Advance(t.Context(), one, from, 1)
		require.NoError(t, err)
		require.Equal(t, moves, ok, "from %d", from)
	}
	ok, err = store.Advance(t.Context(), other, 1, 2)
	require.NoError(t, err)
	require.False(t, ok)

	_, err = testkit.Open(t, admin.AdminURL).Exec(t.Context(), "UPDATE audit.cursors SET held_until = now() - interval '1 second'")
	require.NoError(t, err)
	due, ok, err = store.Lease(t.Context(), other, time.Hour)
	require.NoError(t, err)
	require.True(t, ok, "the first one was not heard of for too long")
	require.Equal(t, onward.Due{Next: 1, Size: 2}, due)
	ok, err = store.Advance(t.Context(), one, 1, 2)
	require.NoError(t, err)
	require.False(t, ok)
}

func TestALogThatARestoreMadeShorterIsPublishedFromItsEndOn(t *testing.T) {
	t.Parallel()
	admin := testkit.Postgres(t, "audit")
	store, holder := open(t, testkit.Open(t, admin.AppURL)), uuid.New()
	record(t, store, published(t, 1, nil), published(t, 2, nil))
	_, err := testkit.Open(t, admin.AdminURL).Exec(t.Context(), "UPDATE audit.cursors SET next_leaf = 9")
	require.NoError(t, err)
	lease := func() onward.Due {
		due, ok, err := store.Lease(t.Context(), holder, time.Hour)
		require.NoError(t, err)
		require.True(t, ok)
		return due
	}
	require.Equal(t, onward.Due{Next: 2, Size: 2}, lease())
	record(t, store, published(t, 3, nil))
	require.Equal(t, onward.Due{Next: 2, Size: 3}, lease(), "the first new one is not passed over")
	ok, err := store.Advance(t.Context(), holder, 2, 3)
	require.NoError(t, err)
	require.True(t, ok)
}

func TestALeaseIsRenewedWhenAThirdOfItIsOver(t *testing.T) {
	t.Parallel()
	admin := testkit.Postgres(t, "audit")
	db := testkit.Open(t, admin.AppURL)
	store, one, other := open(t, db), uuid.New(), uuid.New()
	until := func() (until time.Time) {
		require.NoError(t, db.QueryRow(t.Context(), "SELECT held_until FROM audit.cursors").Scan(&until))
		return until
	}
	lease := func(holder uuid.UUID) bool {
		due, ok, err := store.Lease(t.Context(), holder, time.Hour)
		require.NoError(t, err)
		require.Zero(t, due)
		return ok
	}
	require.True(t, lease(one))
	first := until()
	require.True(t, lease(one))
	require.Equal(t, first, until(), "nothing is written")

	_, err := testkit.Open(t, admin.AdminURL).Exec(t.Context(), "UPDATE audit.cursors SET held_until = now() + interval '39 minutes'")
	require.NoError(t, err)
	require.True(t, lease(one))
	require.True(t, until().After(first))

	require.NoError(t, store.Release(t.Context(), other))
	require.False(t, lease(other), "it was not its own to give back")
	require.NoError(t, store.Release(t.Context(), one))
	require.True(t, lease(other))
	require.False(t, lease(one))
}
