package postgres_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/testkit"
	"github.com/sentryagent/agentidp/services/audit/internal/postgres"
	"github.com/sentryagent/agentidp/services/audit/internal/witness"
)

func TestWhatWitnessesSignedIsKept(t *testing.T) {
	t.Parallel()
	db := testkit.DB(t, "audit")
	log := open(t, db)
	record(t, log, events(t, 0, 8)...)
	store := postgres.NewWitnesses(db)
	ctx := t.Context()
	seen, err := store.Seen(ctx)
	require.NoError(t, err)
	require.Empty(t, seen)
	require.NoError(t, store.Saw(ctx, "one", witness.Seen{Size: 5, Line: []byte("— one a\n")}))
	require.NoError(t, store.Saw(ctx, "one", witness.Seen{Size: 7, Line: []byte("— one b\n")}))
	require.NoError(t, store.Saw(ctx, "one", witness.Seen{Size: 6, Line: []byte("— one late\n")}))
	require.NoError(t, store.Saw(ctx, "two", witness.Seen{Size: 6, Line: []byte{}}))
	seen, err = store.Seen(ctx)
	require.NoError(t, err)
	require.Equal(t, map[string]witness.Seen{"one": {Size: 7, Line: []byte("— one b\n")}, "two": {Size: 6, Line: []byte{}}}, seen)

	require.NoError(t, store.Saw(ctx, "two", witness.Seen{Size: 6, Line: []byte("— two a\n")}))
	seen, err = store.Seen(ctx)
	require.NoError(t, err)
	require.Equal(t, "— two a\n", string(seen["two"].Line), "of the same size the later is kept")

	require.NoError(t, store.Saw(ctx, "two", witness.Seen{Size: 9, Line: []byte("— two of a log that a backup took the place of\n")}))
	require.NoError(t, store.Saw(ctx, "two", witness.Seen{Size: 8, Line: []byte("— two b\n")}))
	seen, err = store.Seen(ctx)
	require.NoError(t, err)
	require.Equal(t, witness.Seen{Size: 8, Line: []byte("— two b\n")}, seen["two"])
}

func TestThePublishedCheckpointNeverBecomesSmaller(t *testing.T) {
	t.Parallel()
	db := testkit.DB(t, "audit")
	log := open(t, db)
	record(t, log, events(t, 0, 8)...)
	store := postgres.NewWitnesses(db)
	ctx := t.Context()
	expect := func(size int64, signed string) {
		t.Helper()
		published, err := store.Published(ctx)
		require.NoError(t, err)
		require.Equal(t, size, published.Size)
		require.Equal(t, signed, string(published.Signed))
	}
	expect(0, "")
	holder := uuid.New()
	_, err := store.Hold(ctx, holder, time.Hour)
	require.NoError(t, err)
	for _, step := range []struct {
		publish func(ctx context.Context, size int64, signed []byte) error
		size    int64
		note    string
		want    int64
		then    string
	}{
		{store.Begin, 2, "begun", 2, "begun"},
		{store.Begin, 3, "begun where a replica talks to witnesses", 2, "begun"},
		{store.Publish, 5, "cosigned", 5, "cosigned"},
		{store.Publish, 4, "cosigned before", 5, "cosigned"},
		{store.Publish, 5, "cosigned by more", 5, "cosigned by more"},
		{store.PublishBare, 5, "bare", 5, "cosigned by more"},
		{store.PublishBare, 4, "bare before", 5, "cosigned by more"},
		{store.PublishBare, 6, "bare", 6, "bare"},
		{store.Publish, 6, "cosigned", 6, "cosigned"},
	} {
		require.NoError(t, step.publish(ctx, step.size, []byte(step.note)))
		expect(step.want, step.then)
	}
	require.NoError(t, store.Release(ctx, holder))
	require.NoError(t, store.Begin(ctx, 6, []byte("bare")))
	expect(6, "cosigned")
	require.NoError(t, store.Begin(ctx, 7, []byte("begun")))
	expect(7, "begun")

	require.NoError(t, store.Publish(ctx, 9, []byte("of a log that a backup took the place of")))
	published, err := store.Published(ctx)
	require.NoError(t, err)
	require.Equal(t, witness.Published{}, published)
	require.NoError(t, store.PublishBare(ctx, 8, []byte("bare")))
	expect(8, "bare")
}

func TestOneReplicaHoldsTheWitnesses(t *testing.T) {
	t.Parallel()
	store := postgres.NewWitnesses(testkit.DB(t, "audit"))
	one, two := uuid.New(), uuid.New()
	hold := func(holder uuid.UUID, lease time.Duration) bool {
		held, err := store.Hold(t.Context(), holder, lease)
		require.NoError(t, err)
		return held
	}
	require.True(t, hold(one, time.Hour))
	require.True(t, hold(one, time.Hour), "and renews it")
	require.False(t, hold(two, time.Hour))
	require.NoError(t, store.Release(t.Context(), two))
	require.False(t, hold(two, time.Hour), "it was not its own to give back")
	require.NoError(t, store.Release(t.Context(), one))
	require.True(t, hold(two, -time.Second))
	require.True(t, hold(one, time.Hour), "what has run out is anybody's")
	require.True(t, hold(one, 2*time.Hour), "renewed, as little of it is left")
	require.False(t, hold(two, time.Hour))
}
