package postgres_test

import (
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
	store := postgres.NewWitnesses(testkit.DB(t, "audit"))
	ctx := t.Context()
	seen, err := store.Seen(ctx)
	require.NoError(t, err)
	require.Empty(t, seen)
	require.NoError(t, store.Saw(ctx, "one", witness.Seen{Size: 5, Line: []byte("— one a\n")}))
	require.NoError(t, store.Saw(ctx, "one", witness.Seen{Size: 7, Line: []byte("— one b\n")}))
	require.NoError(t, store.Saw(ctx, "two", witness.Seen{Size: 6, Line: []byte{}}))
	seen, err = store.Seen(ctx)
	require.NoError(t, err)
	require.Equal(t, map[string]witness.Seen{"one": {Size: 7, Line: []byte("— one b\n")}, "two": {Size: 6, Line: []byte{}}}, seen)

	cosigned, err := store.Cosigned(ctx)
	require.NoError(t, err)
	require.Equal(t, witness.Cosigned{}, cosigned)
	for _, size := range []int64{7, 5, 7} {
		require.NoError(t, store.Publish(ctx, size, []byte("note")))
		cosigned, err = store.Cosigned(ctx)
		require.NoError(t, err)
		require.EqualValues(t, 7, cosigned.Size, "it never becomes smaller")
		require.Equal(t, "note", string(cosigned.Signed))
		require.WithinDuration(t, time.Now(), cosigned.At, time.Hour)
	}
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
	require.True(t, hold(one, -time.Second))
	require.True(t, hold(two, time.Hour), "what has run out is anybody's")
}
