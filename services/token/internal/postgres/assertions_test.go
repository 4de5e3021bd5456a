package postgres_test

import (
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/testkit"
	"github.com/sentryagent/agentidp/services/token/internal/postgres"
)

func TestAnAssertionIsUsedOnceWhereverItIsSent(t *testing.T) {
	t.Parallel()
	database := testkit.Postgres(t, "token")
	var replicas []*postgres.AssertionIDs
	for range 2 {
		replicas = append(replicas, postgres.NewAssertionIDs(testkit.Open(t, database.AppURL)))
	}
	client := newID()
	const rounds = 5
	for round := range rounds {
		var firsts, failures atomic.Int64
		var all sync.WaitGroup
		for i := range 40 {
			all.Go(func() {
				first, err := replicas[i%2].Use(t.Context(), client, "jti-"+strconv.Itoa(round), noon)
				if err != nil {
					failures.Add(1)
				}
				if first {
					firsts.Add(1)
				}
			})
		}
		all.Wait()
		require.Zero(t, failures.Load())
		require.EqualValues(t, 1, firsts.Load())
	}
}

func TestAssertionsOfDifferentClientsAreDifferent(t *testing.T) {
	t.Parallel()
	db := testkit.DB(t, "token")
	store := postgres.NewAssertionIDs(db)
	one, other := newID(), newID()
	for _, row := range []struct {
		jti   string
		first bool
	}{{"a", true}, {"a", false}, {"A", true}, {"a\x00b", true}, {strings.Repeat("é", 255), true}, {strings.Repeat("é", 255), false}} {
		first, err := store.Use(t.Context(), one, row.jti, noon)
		require.NoError(t, err)
		require.Equal(t, row.first, first, row.jti)
	}
	first, err := store.Use(t.Context(), other, "a", noon)
	require.NoError(t, err)
	require.True(t, first)
	require.Equal(t, 5, count(t, db, "assertion_ids"))
}

func TestExpiredAssertionsAreForgottenInPortions(t *testing.T) {
	t.Parallel()
	db := testkit.DB(t, "token")
	store := postgres.NewAssertionIDs(db)
	client := newID()
	for i := range 7 {
		_, err := store.Use(t.Context(), client, strconv.Itoa(i), noon.Add(time.Duration(i)*time.Second))
		require.NoError(t, err)
	}
	for _, want := range []int64{2, 2, 1, 0} { // the first five expired more than an hour before
		deleted, err := store.Purge(t.Context(), noon.Add(time.Hour+5*time.Second), 2)
		require.NoError(t, err)
		require.Equal(t, want, deleted)
	}
	require.Equal(t, 2, count(t, db, "assertion_ids"))
	first, err := store.Use(t.Context(), client, "6", noon)
	require.NoError(t, err)
	require.False(t, first, "what expired within the hour is remembered")
}
