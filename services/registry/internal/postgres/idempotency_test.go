package postgres_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/services/registry/internal/agent"
)

func keyed(a agent.Agent, key, fingerprint string) agent.Entry {
	entry := entryOf(a)
	entry.Key = &agent.IdempotencyKey{
		Caller: *a.RegisteredBy, Key: key, Fingerprint: []byte(fingerprint),
		Now: a.CreatedAt, ExpiresAt: a.CreatedAt.Add(agent.IdempotencyWindow),
	}
	return entry
}

func TestARepeatAnswersTheFirstResultWhateverBecameOfTheAgent(t *testing.T) {
	t.Parallel()
	b := setup(t)
	first, err := b.store.Register(t.Context(), keyed(newAgent(t0), "key", "body"))
	require.NoError(t, err)
	_, err = b.store.Revise(t.Context(), first.ID, decommission)
	require.NoError(t, err)

	again, err := b.store.Register(t.Context(), keyed(newAgent(t0.Add(time.Hour)), "key", "body"))
	require.NoError(t, err)
	require.Equal(t, first, again)
	require.Equal(t, 0, b.living(t))
	require.Equal(t, 1, b.count(t, "SELECT count(*) FROM registry.agents"))
	require.Equal(t, 2, b.count(t, "SELECT count(*) FROM registry.outbox"), "the repeat leaves no message")
}

func TestAResultFromBeforeAgentsHadResourcesIsAnsweredWithNone(t *testing.T) {
	t.Parallel()
	b := setup(t)
	first, err := b.store.Register(t.Context(), keyed(newAgent(t0), "key", "body"))
	require.NoError(t, err)
	_, err = b.db.Exec(t.Context(), "UPDATE registry.idempotency_keys SET result = result - 'allowedResources'")
	require.NoError(t, err)
	again, err := b.store.Register(t.Context(), keyed(newAgent(t0), "key", "body"))
	require.NoError(t, err)
	first.AllowedResources = []string{}
	require.Equal(t, first, again)
}

func TestARepeatIsAnsweredAtTheLimitToo(t *testing.T) {
	t.Parallel()
	b := setup(t)
	entry := keyed(newAgent(t0), "key", "body")
	entry.Limit = 1
	first, err := b.store.Register(t.Context(), entry)
	require.NoError(t, err)
	entry = keyed(newAgent(t0), "key", "body")
	entry.Limit = 1
	again, err := b.store.Register(t.Context(), entry)
	require.NoError(t, err)
	require.Equal(t, first, again)
}

func TestAKeyForAnotherBodyIsRefused(t *testing.T) {
	t.Parallel()
	b := setup(t)
	_, err := b.store.Register(t.Context(), keyed(newAgent(t0), "key", "body"))
	require.NoError(t, err)
	_, err = b.store.Register(t.Context(), keyed(newAgent(t0), "key", "another body"))
	require.Equal(t, apperr.IdempotencyKeyReused, apperr.CodeOf(err))
	require.Equal(t, 1, b.living(t))
}

func TestAKeyBelongsToItsCaller(t *testing.T) {
	t.Parallel()
	b := setup(t)
	first, err := b.store.Register(t.Context(), keyed(newAgent(t0), "key", "body"))
	require.NoError(t, err)
	others := newAgent(t0)
	others.RegisteredBy = ref(uuid.New())
	second, err := b.store.Register(t.Context(), keyed(others, "key", "another body"))
	require.NoError(t, err)
	require.NotEqual(t, first.ID, second.ID)
	require.Equal(t, 2, b.living(t))
}

func TestAKeyIsForgottenAfterADay(t *testing.T) {
	t.Parallel()
	b := setup(t)
	first, err := b.store.Register(t.Context(), keyed(newAgent(t0), "key", "body"))
	require.NoError(t, err)

	lastMoment := newAgent(t0.Add(agent.IdempotencyWindow - time.Microsecond))
	again, err := b.store.Register(t.Context(), keyed(lastMoment, "key", "body"))
	require.NoError(t, err)
	require.Equal(t, first.ID, again.ID)

	nextDay := newAgent(t0.Add(agent.IdempotencyWindow))
	second, err := b.store.Register(t.Context(), keyed(nextDay, "key", "another body"))
	require.NoError(t, err)
	require.Equal(t, nextDay, second)
	again, err = b.store.Register(t.Context(), keyed(newAgent(nextDay.CreatedAt.Add(time.Hour)), "key", "another body"))
	require.NoError(t, err)
	require.Equal(t, second, again)
}

func TestARefusedRegistrationIsNotRemembered(t *testing.T) {
	t.Parallel()
	b := setup(t)
	taken := b.add(t, newAgent(t0))
	duplicate := newAgent(t0)
	duplicate.Email = taken.Email
	_, err := b.store.Register(t.Context(), keyed(duplicate, "key", "body"))
	require.Equal(t, apperr.AgentAlreadyExists, apperr.CodeOf(err))

	_, err = b.store.Register(t.Context(), keyed(newAgent(t0), "key", "a corrected body"))
	require.NoError(t, err)
}

func TestParallelRepeatsAnswerOneAgent(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const repeats = 24
	ids := make([]uuid.UUID, repeats)
	var group sync.WaitGroup
	for i := range repeats {
		group.Go(func() {
			fresh := newAgent(t0)
			fresh.Email = "same@example.com"
			stored, err := b.store.Register(t.Context(), keyed(fresh, "key", "body"))
			assert.NoError(t, err)
			ids[i] = stored.ID
		})
	}
	group.Wait()
	for _, id := range ids {
		require.Equal(t, ids[0], id)
	}
	require.Equal(t, 1, b.living(t))
	require.Equal(t, 1, b.count(t, "SELECT count(*) FROM registry.outbox"))
}

func TestExpiredKeysAreDeletedInPortions(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const insert = `INSERT INTO registry.idempotency_keys (caller_id, idempotency_key, fingerprint, result, expires_at)
		SELECT $1, $2 || n, '', '{}', $3 FROM generate_series(1, $4::int) n`
	for i, expires := range []time.Time{t0.Add(-time.Hour), t0, t0.Add(time.Microsecond)} {
		_, err := b.db.Exec(t.Context(), insert, caller, fmt.Sprintf("key-%d-", i), expires, 5)
		require.NoError(t, err)
	}
	for _, want := range []int64{4, 4, 2, 0} {
		deleted, err := b.store.PurgeIdempotencyKeys(t.Context(), t0, 4)
		require.NoError(t, err)
		require.Equal(t, want, deleted)
	}
	require.Equal(t, 5, b.count(t, "SELECT count(*) FROM registry.idempotency_keys WHERE expires_at > $1", t0))
}
