package postgres_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sentryagent/agentidp/pkg/auditlog"
	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/pkg/testkit"
	"github.com/sentryagent/agentidp/services/audit/internal/postgres"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

// requireLog holds all that is stored together: the events have the leaves from 0 on, each once; the tiles
// are those of these leaves; the head is theirs too, and signed.
func requireLog(t *testing.T, db *pgdb.DB, key testkit.LogKey, size int64) {
	t.Helper()
	rows, err := db.Query(t.Context(), "SELECT leaf_index, payload::text FROM audit.events ORDER BY leaf_index")
	require.NoError(t, err)
	var hashes []tlog.Hash
	var index int64
	var payload []byte
	_, err = pgx.ForEachRow(rows, []any{&index, &payload}, func() error {
		require.EqualValues(t, len(hashes), index, "no gap, and no index twice")
		leaf, err := auditlog.Leaf(payload)
		require.NoError(t, err)
		hashes = append(hashes, auditlog.HashLeaf(leaf))
		return nil
	})
	require.NoError(t, err)
	require.Len(t, hashes, int(size))

	type tile struct {
		level int
		index int64
	}
	want, got := map[tile][]byte{}, map[tile][]byte{}
	tree := &auditlog.Frontier{}
	for _, part := range tree.Extend(hashes) {
		want[tile{part.Level, part.Index}] = part.Data
	}
	rows, err = db.Query(t.Context(), "SELECT level, index, data FROM audit.tiles")
	require.NoError(t, err)
	var level int
	var data []byte
	_, err = pgx.ForEachRow(rows, []any{&level, &index, &data}, func() error {
		got[tile{level, index}] = slices.Clone(data)
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, want, got)

	var signed string
	require.NoError(t, db.QueryRow(t.Context(), "SELECT checkpoint FROM audit.tree").Scan(&signed))
	head, _, err := auditlog.Open([]byte(signed), key.Verifier)
	require.NoError(t, err)
	require.Equal(t, auditlog.Checkpoint{Origin: testkit.LogOrigin, Size: size, Root: tree.Root()}, head)
}

func events(t *testing.T, from, n uint64) []trail.Delivery {
	t.Helper()
	batch := make([]trail.Delivery, n)
	for i := range batch {
		batch[i] = published(t, from+uint64(i), nil)
	}
	return batch
}

func TestEveryStoredEventIsTheNextLeafOfASignedTree(t *testing.T) {
	t.Parallel()
	db := testkit.DB(t, "audit")
	store := open(t, db)
	size := int64(0)
	for _, n := range []uint64{1, 2, 252, 1, 1, 500, 300} { // past tiles at 256, 512, 768 and 1024
		record(t, store, events(t, uint64(size), n)...)
		size += int64(n)
		requireLog(t, db, store.key, size)
	}
}

func TestReplicasTakeTurnsAsSequencer(t *testing.T) {
	t.Parallel()
	db := testkit.DB(t, "audit")
	key := testkit.AuditLogKey(t)
	var replicas sync.WaitGroup
	const batches, each = 12, 20
	for replica := range uint64(4) {
		store := postgres.NewSequencer(sequencing(db, key))
		var work [][]trail.Delivery
		for batch := range uint64(batches) {
			work = append(work, events(t, replica*1000+batch*each, each))
		}
		replicas.Go(func() {
			for _, batch := range work {
				_, err := store.Record(t.Context(), batch)
				assert.NoError(t, err)
			}
		})
	}
	replicas.Wait()
	requireLog(t, db, key, 4*batches*each)
}

func TestABatchOfOnlyDuplicatesLeavesTheHeadAlone(t *testing.T) {
	t.Parallel()
	db := testkit.DB(t, "audit")
	store := open(t, db)
	batch := events(t, 0, 3)
	record(t, store, batch...)
	verdicts, err := store.Record(t.Context(), batch)
	require.NoError(t, err)
	require.Equal(t, []trail.Verdict{trail.Duplicate, trail.Duplicate, trail.Duplicate}, verdicts)
	requireLog(t, db, store.key, 3)
}

func TestAnEventWithoutALeafLeavesNoGap(t *testing.T) {
	t.Parallel()
	db := testkit.DB(t, "audit")
	store := open(t, db)
	batch := events(t, 0, 5)
	batch[1].Event.Outcome = "maybe" // Postgres refuses the row
	batch[3].Reject = "no event"
	verdicts, err := store.Record(t.Context(), batch)
	require.NoError(t, err)
	require.Equal(t, []trail.Verdict{trail.Stored, trail.Dead, trail.Stored, trail.Dead, trail.Stored}, verdicts)
	requireLog(t, db, store.key, 3)
}

func TestWhatABatchHasStoredIsToldWithItsLeaves(t *testing.T) {
	t.Parallel()
	db := testkit.DB(t, "audit")
	key := testkit.AuditLogKey(t)
	told := map[int64][]byte{}
	cfg := sequencing(db, key)
	cfg.Stored = func(first int64, events []trail.Delivery) {
		for i, event := range events {
			told[first+int64(i)] = event.Leaf
		}
	}
	sequencer := postgres.NewSequencer(cfg)
	batch := events(t, 0, 8)
	batch[4].Event.Outcome = "maybe" // Postgres refuses the row
	batch[6].Reject = "no event"
	for _, part := range [][]trail.Delivery{batch[:3], batch[2:]} {
		_, err := sequencer.Record(t.Context(), part)
		require.NoError(t, err)
	}

	rows, err := db.Query(t.Context(), "SELECT leaf_index, payload::text FROM audit.events")
	require.NoError(t, err)
	have := map[int64][]byte{}
	var index int64
	var payload []byte
	_, err = pgx.ForEachRow(rows, []any{&index, &payload}, func() error {
		leaf, err := auditlog.Leaf(payload)
		have[index] = leaf
		return err
	})
	require.NoError(t, err)
	require.Len(t, have, 6)
	require.Equal(t, have, told)
}

// stuck is a signer that does not come back, at the moment when its replica holds the tree: a process that
// is frozen in the middle of its transaction.
type stuck struct {
	note.Signer
	frozen chan struct{} // closed once it is stuck
	thaw   chan struct{}
	once   sync.Once
}

func (s *stuck) Sign(text []byte) ([]byte, error) {
	s.once.Do(func() {
		close(s.frozen)
		<-s.thaw
	})
	return s.Signer.Sign(text)
}

func TestAFrozenSequencerHoldsNobodyUpForLong(t *testing.T) {
	t.Parallel()
	db := testkit.DB(t, "audit")
	key := testkit.AuditLogKey(t)
	signer := &stuck{Signer: key.Signer, frozen: make(chan struct{}), thaw: make(chan struct{})}
	cfg := sequencing(db, key)
	cfg.Signer = signer
	frozen, other := postgres.NewSequencer(cfg), postgres.NewSequencer(sequencing(db, key))
	first := events(t, 0, 10)
	var thawed []trail.Verdict
	var replica sync.WaitGroup
	replica.Go(func() {
		var err error
		thawed, err = frozen.Record(t.Context(), first)
		if err != nil { // its transaction was ended; the messages come again
			thawed, err = frozen.Record(t.Context(), first)
		}
		assert.NoError(t, err)
	})
	<-signer.frozen

	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	verdicts, err := other.Record(ctx, append(events(t, 100, 10), first[:5]...))
	require.NoError(t, err, "another goes on within 5 s")
	require.NotContains(t, verdicts, trail.Retry)
	requireLog(t, db, key, 15)

	close(signer.thaw)
	replica.Wait()
	require.Equal(t, slices.Concat(slices.Repeat([]trail.Verdict{trail.Duplicate}, 5), slices.Repeat([]trail.Verdict{trail.Stored}, 5)), thawed)
	requireLog(t, db, key, 20)
}
