package postgres_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/outbox"
	"github.com/sentryagent/agentidp/services/registry/internal/agent"
)

const keysURI = "https://agent.example.com/jwks.json"

// set is a change that gives the agent these keys.
func set(keys agent.Keys) func(agent.Agent, *agent.Keys, time.Time) (agent.Revision, *agent.Keys, error) {
	return func(current agent.Agent, _ *agent.Keys, _ time.Time) (agent.Revision, *agent.Keys, error) {
		current.Revision++
		current.UpdatedAt = current.UpdatedAt.Add(time.Second)
		return agent.Revision{Agent: current, Messages: []outbox.Message{message()}}, &keys, nil
	}
}

func remove(current agent.Agent, _ *agent.Keys, _ time.Time) (agent.Revision, *agent.Keys, error) {
	current.Revision++
	return agent.Revision{Agent: current, Messages: []outbox.Message{message()}}, nil, nil
}

func (b *bundle) agentAndKeys(t *testing.T, id uuid.UUID) (agent.Agent, *agent.Keys) {
	t.Helper()
	found, err := b.store.Agents(t.Context(), []uuid.UUID{id})
	require.NoError(t, err)
	require.Len(t, found, 1)
	return found[0].Agent, found[0].Keys
}

func TestAgentsAreReadEachWithItsOwnKeys(t *testing.T) {
	t.Parallel()
	b := setup(t)
	with, without, other := b.add(t, newAgent(t0)), b.add(t, newAgent(t0)), b.add(t, newAgent(t0))
	with, err := b.store.ReviseKeys(t.Context(), with.ID, set(agent.Keys{URI: keysURI}))
	require.NoError(t, err)
	_, err = b.store.ReviseKeys(t.Context(), other.ID, set(agent.Keys{URI: keysURI + "/other"}))
	require.NoError(t, err)
	found, err := b.store.Agents(t.Context(), []uuid.UUID{without.ID, uuid.New(), with.ID, with.ID})
	require.NoError(t, err)
	require.ElementsMatch(t, []agent.WithKeys{{Agent: with, Keys: &agent.Keys{URI: keysURI}}, {Agent: without}}, found)
}

func TestKeysAreReadAsTheyWereStored(t *testing.T) {
	t.Parallel()
	b := setup(t)
	first, other := b.add(t, newAgent(t0)), b.add(t, newAgent(t0))
	found, keys := b.agentAndKeys(t, first.ID)
	require.Equal(t, first, found)
	require.Nil(t, keys)

	for _, want := range []agent.Keys{
		{JWKS: json.RawMessage(`{"keys":[{"kty":"OKP","use":"sig","crv":"Ed25519","x":"x"}]}`)},
		{URI: keysURI},
		{JWKS: json.RawMessage(`{"keys":[]}`)},
	} {
		changed, err := b.store.ReviseKeys(t.Context(), first.ID, set(want))
		require.NoError(t, err)
		found, keys := b.agentAndKeys(t, first.ID)
		require.Equal(t, changed, found)
		require.Equal(t, &want, keys)
	}
	_, err := b.store.ReviseKeys(t.Context(), other.ID, set(agent.Keys{URI: keysURI}))
	require.NoError(t, err)

	_, err = b.store.ReviseKeys(t.Context(), first.ID, func(current agent.Agent, keys *agent.Keys, now time.Time) (agent.Revision, *agent.Keys, error) {
		require.Equal(t, int64(4), current.Revision)
		require.Equal(t, &agent.Keys{JWKS: json.RawMessage(`{"keys":[]}`)}, keys)
		return remove(current, keys, now)
	})
	require.NoError(t, err)
	found, keys = b.agentAndKeys(t, first.ID)
	require.Equal(t, int64(5), found.Revision)
	require.Nil(t, keys)
	require.Equal(t, 1, b.count(t, "SELECT count(*) FROM registry.agent_keys"), "the other agent's stay")
	require.Equal(t, 2+5, b.count(t, "SELECT count(*) FROM registry.outbox"))
}

func TestAChangeOfKeysThatIsRefusedStoresNothing(t *testing.T) {
	t.Parallel()
	b := setup(t)
	first := b.add(t, newAgent(t0))
	_, err := b.store.ReviseKeys(t.Context(), first.ID, func(current agent.Agent, _ *agent.Keys, _ time.Time) (agent.Revision, *agent.Keys, error) {
		return agent.Revision{Agent: current}, &agent.Keys{URI: keysURI}, agent.ErrPreconditionFailed
	})
	require.Equal(t, apperr.PreconditionFailed, apperr.CodeOf(err))
	found, keys := b.agentAndKeys(t, first.ID)
	require.Equal(t, first, found)
	require.Nil(t, keys)
}

func TestKeysOfAnAgentThatIsNotThere(t *testing.T) {
	t.Parallel()
	b := setup(t)
	found, err := b.store.Agents(t.Context(), []uuid.UUID{uuid.New()})
	require.NoError(t, err)
	require.Empty(t, found)
	_, err = b.store.ReviseKeys(t.Context(), uuid.New(), set(agent.Keys{URI: keysURI}))
	require.Equal(t, apperr.AgentNotFound, apperr.CodeOf(err))
}

func TestAChangeOfTheAgentLeavesItsKeys(t *testing.T) {
	t.Parallel()
	b := setup(t)
	first := b.add(t, newAgent(t0))
	_, err := b.store.ReviseKeys(t.Context(), first.ID, set(agent.Keys{URI: keysURI}))
	require.NoError(t, err)
	_, err = b.store.Revise(t.Context(), first.ID, decommission)
	require.NoError(t, err)
	found, keys := b.agentAndKeys(t, first.ID)
	require.Equal(t, agent.Decommissioned, found.Status)
	require.Equal(t, &agent.Keys{URI: keysURI}, keys)
}

func TestParallelChangesOfKeysAreRevisionsOneAfterTheOther(t *testing.T) {
	t.Parallel()
	b := setup(t)
	first := b.add(t, newAgent(t0))
	const changes = 20
	var group sync.WaitGroup
	for i := range changes {
		group.Go(func() {
			change := set(agent.Keys{URI: fmt.Sprintf("https://agent-%d.example.com/", i)})
			if i%2 == 0 {
				change = remove
			}
			_, err := b.store.ReviseKeys(t.Context(), first.ID, change)
			assert.NoError(t, err)
		})
	}
	group.Wait()
	found, err := b.store.Agent(t.Context(), first.ID)
	require.NoError(t, err)
	require.Equal(t, int64(1+changes), found.Revision)
	require.Equal(t, 1+changes, b.count(t, "SELECT count(*) FROM registry.outbox"))
}

func TestTheDatabaseKeepsKeysAndResourcesWithinTheirRules(t *testing.T) {
	t.Parallel()
	b := setup(t)
	first := b.add(t, newAgent(t0))
	for name, sql := range map[string]string{
		"neither a set nor a URI":  "INSERT INTO registry.agent_keys (agent_id) VALUES ('" + first.ID.String() + "')",
		"a set and a URI":          "INSERT INTO registry.agent_keys VALUES ('" + first.ID.String() + "', '{}', 'https://a.example/')",
		"keys of nobody":           "INSERT INTO registry.agent_keys VALUES (gen_random_uuid(), '{}', NULL)",
		"seventeen resources":      "UPDATE registry.agents SET allowed_resources = array_fill('x'::text, ARRAY[17])",
		"no list of resources":     "UPDATE registry.agents SET allowed_resources = NULL",
		"a set that is no JSON":    "INSERT INTO registry.agent_keys VALUES ('" + first.ID.String() + "', '{', NULL)",
		"resources of a new agent": "INSERT INTO registry.agents SELECT (jsonb_populate_record(a, '{\"allowed_resources\":null}')).* FROM registry.agents a",
	} {
		_, err := b.db.Exec(t.Context(), sql)
		var refused *pgconn.PgError
		require.True(t, errors.As(err, &refused), "%s: %v", name, err)
		require.Contains(t, []string{"23514", "23503", "23502", "22P02"}, refused.Code, name)
	}
}
