package outbox_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/outbox"
	"github.com/sentryagent/agentidp/pkg/testkit"
)

// node is a step of a plan that was run.
type node struct {
	Rows         float64 `json:"Actual Rows"`
	Loops        float64 `json:"Actual Loops"`
	Filtered     float64 `json:"Rows Removed by Filter"`
	JoinFiltered float64 `json:"Rows Removed by Join Filter"`
	Plans        []node
}

// handled is how many rows the step and those below it gave on or dropped.
func (n node) handled() float64 {
	sum := n.Loops * (n.Rows + n.Filtered + n.JoinFiltered)
	for _, below := range n.Plans {
		sum += below.handled()
	}
	return sum
}

func TestAClaimReadsNoMoreOfALongBacklogThanItNeeds(t *testing.T) {
	t.Parallel()
	const rows = 4000
	for name, test := range map[string]struct {
		subject string
		needed  func(claimed int) float64
	}{
		"of one agent":   {"lifecycle.agent.x", func(int) float64 { return rows }},
		"of many agents": {"lifecycle.agent.%d", func(claimed int) float64 { return float64(claimed) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.db = testkit.Open(t, testkit.Postgres(t, schema).OwnerURL)
			_, err := b.db.Exec(b.ctx, `INSERT INTO registry.outbox (event_id, subject, payload)
				SELECT gen_random_uuid(), replace($2, '%d', i::text), '' FROM generate_series(1, $1) i`, rows, test.subject)
			require.NoError(t, err)
			_, err = b.db.Exec(b.ctx, "ANALYZE registry.outbox") // Postgres joins by what it knows of a table
			require.NoError(t, err)

			for _, limit := range []int{1, outbox.BatchSize} {
				tx, err := b.db.Begin(b.ctx)
				require.NoError(t, err)
				var explained []byte
				sql := "EXPLAIN (ANALYZE, FORMAT JSON) " + outbox.ClaimOrderedSQL(b.out)
				require.NoError(t, tx.QueryRow(b.ctx, sql, limit, time.Minute).Scan(&explained))
				require.NoError(t, tx.Rollback(b.ctx))
				var plans []struct{ Plan node }
				require.NoError(t, json.Unmarshal(explained, &plans))
				require.Less(t, plans[0].Plan.handled(), 20*test.needed(limit), "%s", explained)
			}
		})
	}
}

// claim takes what of the lifecycle messages can be taken, and answers what is in them.
func (b *bundle) claim(t *testing.T) (payloads []string) {
	t.Helper()
	rows, err := b.db.Query(b.ctx, outbox.ClaimOrderedSQL(b.out), outbox.BatchSize, time.Minute)
	require.NoError(t, err)
	var payload []byte
	_, err = pgx.ForEachRow(rows, []any{nil, nil, &payload, nil}, func() error {
		payloads = append(payloads, string(payload))
		return nil
	})
	require.NoError(t, err)
	return payloads
}

// appendAgents appends all in one call; the first letter is the agent.
func (b *bundle) appendAgents(t *testing.T, payloads ...string) {
	t.Helper()
	msgs := make([]outbox.Message, len(payloads))
	for i, payload := range payloads {
		msgs[i] = outbox.Message{ID: uuid.New(), Subject: "lifecycle.agent." + payload[:1], Payload: []byte(payload)}
	}
	b.append(t, msgs...)
}

func TestOnlyTheOldestRowOfALifecycleSubjectIsClaimed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.appendAgents(t, "a1", "b1", "a2", "b2", "a3")
	b.append(t, messages("audit.registry.agent.created", 1)...)
	require.ElementsMatch(t, []string{"a1", "b1"}, b.claim(t))
	require.Empty(t, b.claim(t), "one that is claimed keeps those after it back")

	_, err := b.db.Exec(b.ctx, "DELETE FROM registry.outbox WHERE payload = 'a1'")
	require.NoError(t, err)
	require.Equal(t, []string{"a2"}, b.claim(t))
	_, err = b.db.Exec(b.ctx, "UPDATE registry.outbox SET claimed_until = clock_timestamp() - interval '1 s' WHERE payload = 'b1'")
	require.NoError(t, err)
	require.Equal(t, []string{"b1"}, b.claim(t), "a claim that ran out")
}

func TestARowThatSomebodyHoldsIsPassedBy(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.appendAgents(t, "a1", "a2", "b1")
	require.NoError(t, b.db.WithTx(b.ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(b.ctx, "SELECT FROM registry.outbox WHERE payload = 'a1' FOR UPDATE")
		require.NoError(t, err)
		require.Equal(t, []string{"b1"}, b.claim(t))
		return err
	}))
	require.Equal(t, []string{"a1"}, b.claim(t))
}

func TestAClaimThatIsAnothersByNowIsLeftAlone(t *testing.T) {
	t.Parallel()
	for name, giveBack := range map[string]func(b *bundle, id uuid.UUID, until time.Time) error{
		"on release": func(b *bundle, id uuid.UUID, until time.Time) error {
			_, err := b.db.Exec(b.ctx, outbox.ReleaseSQL(b.out), []uuid.UUID{id}, []time.Time{until})
			return err
		},
		"on postponement": func(b *bundle, id uuid.UUID, until time.Time) error {
			_, err := b.db.Exec(b.ctx, outbox.PostponeSQL(b.out), []uuid.UUID{id}, []time.Time{until}, time.Hour)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.appendAgents(t, "a1")
			var id uuid.UUID
			var claimed time.Time
			const sql = "UPDATE registry.outbox SET claimed_until = $1 RETURNING event_id, claimed_until"
			require.NoError(t, b.db.QueryRow(b.ctx, sql, time.Now().Add(time.Minute)).Scan(&id, &claimed))
			held := func() (same bool) {
				err := b.db.QueryRow(b.ctx, "SELECT claimed_until IS NOT DISTINCT FROM $1 FROM registry.outbox", claimed).Scan(&same)
				require.NoError(t, err)
				return same
			}
			require.NoError(t, giveBack(b, id, claimed.Add(-time.Second)))
			require.True(t, held())
			require.NoError(t, giveBack(b, id, claimed))
			require.False(t, held())
		})
	}
}
