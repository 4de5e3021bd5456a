package postgres_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/auditlog"
	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/pkg/testkit"
	"github.com/sentryagent/agentidp/services/audit/internal/merkle"
	"github.com/sentryagent/agentidp/services/audit/internal/postgres"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

func asked(db *pgdb.DB, key testkit.LogKey) *merkle.Log {
	return merkle.New(merkle.Config{
		Store: postgres.NewLog(db), Signer: key.Signer, Window: trail.NewWindow(90), Clock: func() time.Time { return now },
	})
}

// requireProof verifies a proof as somebody would who has the public key and nothing else.
func requireProof(t *testing.T, key testkit.LogKey, proof auditlog.Proof) {
	t.Helper()
	head, _, err := auditlog.Open([]byte(proof.Checkpoint), key.Verifier)
	require.NoError(t, err)
	require.Equal(t, head.Size, proof.TreeSize)
	require.Equal(t, auditlog.HashLeaf([]byte(proof.Leaf)), proof.LeafHash)
	require.NoError(t, tlog.CheckRecord(proof.Hashes, head.Size, head.Root, proof.LeafIndex, proof.LeafHash))
}

func TestEveryEventHasAProofAgainstTheSignedCheckpoint(t *testing.T) {
	t.Parallel()
	db := testkit.DB(t, "audit")
	store := open(t, db)
	batch := events(t, 0, 300)
	for from := 0; from < len(batch); from += 60 {
		record(t, store, batch[from:from+60]...)
	}
	log := asked(db, store.key)
	for i, d := range batch {
		proof, err := log.Prove(t.Context(), d.Event.ID)
		require.NoError(t, err)
		require.EqualValues(t, i, proof.LeafIndex, "in the order of arrival")
		require.JSONEq(t, string(d.Payload), proof.Leaf)
		requireProof(t, store.key, proof)
	}
}

func TestAnEventBehindThePublishedCheckpointIsProvenByTheNewest(t *testing.T) {
	t.Parallel()
	db := testkit.DB(t, "audit")
	store := open(t, db)
	batch := events(t, 0, 5)
	record(t, store, batch[:3]...)
	signed, err := asked(db, store.key).Newest(t.Context())
	require.NoError(t, err)
	published, _, err := auditlog.Open(signed, store.key.Verifier)
	require.NoError(t, err)
	record(t, store, batch[3:]...)
	log := asked(db, store.key)
	log.Published = func(context.Context) (auditlog.Checkpoint, []byte, bool, error) { return published, signed, true, nil }
	for i, size := range []int64{3, 3, 3, 5, 5} {
		proof, err := log.Prove(t.Context(), batch[i].Event.ID)
		require.NoError(t, err)
		require.Equal(t, size, proof.TreeSize, "leaf %d", i)
		requireProof(t, store.key, proof)
	}
}

func TestAProofIsForEventsInsideTheWindow(t *testing.T) {
	t.Parallel()
	db := testkit.DB(t, "audit")
	store := open(t, db)
	log := asked(db, store.key)
	_, err := log.Prove(t.Context(), uuid.Must(uuid.NewV7()))
	require.Equal(t, apperr.AuditEventNotFound, apperr.CodeOf(err))

	// Of the oldest day that is kept, what lies before the window is not shown any more.
	oldest := trail.NewWindow(90).Oldest(now)
	late := published(t, 1, func(fields map[string]any) { fields["timestamp"] = oldest })
	record(t, store, late)
	_, err = log.Prove(t.Context(), late.Event.ID)
	require.Equal(t, apperr.AuditEventNotFound, apperr.CodeOf(err))
	_, err = log.Tile(t.Context(), tlog.Tile{H: 8, L: auditlog.EntriesLevel, N: 0, W: 1})
	require.Equal(t, apperr.NotFound, apperr.CodeOf(err))
}

func TestEveryTwoSizesOfTheLogAreConsistent(t *testing.T) {
	t.Parallel()
	db := testkit.DB(t, "audit")
	store := open(t, db)
	log := asked(db, store.key)
	roots := map[int64]tlog.Hash{}
	size := int64(0)
	for _, n := range []uint64{1, 1, 5, 250, 3, 40} {
		record(t, store, events(t, uint64(size), n)...)
		size += int64(n)
		signed, err := log.Checkpoint(t.Context())
		require.NoError(t, err)
		head, _, err := auditlog.Open(signed, store.key.Verifier)
		require.NoError(t, err)
		require.Equal(t, size, head.Size)
		roots[size] = head.Root
	}
	for from, old := range roots {
		for to, root := range roots {
			answer, err := log.Consistency(t.Context(), from, &to)
			if from > to {
				require.Equal(t, apperr.ValidationError, apperr.CodeOf(err))
				continue
			}
			require.NoError(t, err)
			require.NoError(t, tlog.CheckTree(answer.Hashes, to, root, from, old), "%d to %d", from, to)
		}
	}
	answer, err := log.Consistency(t.Context(), 0, nil)
	require.NoError(t, err)
	require.Equal(t, auditlog.Consistency{From: 0, To: size, Hashes: []tlog.Hash{}}, answer)
	beyond := size + 1
	_, err = log.Consistency(t.Context(), 1, &beyond)
	require.Equal(t, apperr.ValidationError, apperr.CodeOf(err))
}

func TestTilesAndEntriesRebuildTheTree(t *testing.T) {
	t.Parallel()
	db := testkit.DB(t, "audit")
	store := open(t, db)
	log := asked(db, store.key)
	record(t, store, events(t, 0, 500)...)
	record(t, store, events(t, 500, 20)...)
	signed, err := log.Checkpoint(t.Context())
	require.NoError(t, err)
	head, _, err := auditlog.Open(signed, store.key.Verifier)
	require.NoError(t, err)

	byEntries := &auditlog.Frontier{}
	for _, tile := range []tlog.Tile{{H: 8, N: 0, W: 256}, {H: 8, N: 1, W: 256}, {H: 8, N: 2, W: 8}} {
		data, err := log.Tile(t.Context(), tile)
		require.NoError(t, err)
		hashes, err := auditlog.TileHashes(data)
		require.NoError(t, err)
		tile.L = auditlog.EntriesLevel
		bundle, err := log.Tile(t.Context(), tile)
		require.NoError(t, err)
		leaves, err := auditlog.ReadEntries(bundle)
		require.NoError(t, err)
		require.Len(t, leaves, tile.W)
		for i, leaf := range leaves {
			require.Equal(t, hashes[i], auditlog.HashLeaf(leaf))
			byEntries.Add(hashes[i])
		}
	}
	require.Equal(t, head.Root, byEntries.Root())

	for name, tile := range map[string]tlog.Tile{
		"more than there is":          {H: 8, N: 2, W: 9},
		"a tile beyond the log":       {H: 8, N: 3, W: 1},
		"a level beyond the log":      {H: 8, L: 2, N: 0, W: 1},
		"more entries than there are": {H: 8, L: auditlog.EntriesLevel, N: 2, W: 9},
	} {
		_, err := log.Tile(t.Context(), tile)
		require.Equal(t, apperr.NotFound, apperr.CodeOf(err), name)
	}
}

func TestAnEmptyLogHasASignedCheckpoint(t *testing.T) {
	t.Parallel()
	db, key := testkit.DB(t, "audit"), testkit.AuditLogKey(t)
	log := asked(db, key)
	signed, err := log.Checkpoint(t.Context())
	require.NoError(t, err)
	head, _, err := auditlog.Open(signed, key.Verifier)
	require.NoError(t, err)
	require.Equal(t, auditlog.Checkpoint{Origin: testkit.LogOrigin, Root: (&auditlog.Frontier{}).Root()}, head)
	answer, err := log.Consistency(t.Context(), 0, nil)
	require.NoError(t, err)
	require.Empty(t, answer.Hashes)
}

func TestAReplicaWithAnotherKeyStoresNothing(t *testing.T) {
	t.Parallel()
	database := testkit.Postgres(t, "audit")
	db := testkit.Open(t, database.AppURL)
	store := open(t, db)
	record(t, store, published(t, 1, nil))
	other := open(t, db)

	_, err := other.Record(t.Context(), []trail.Delivery{published(t, 2, nil)})

	require.ErrorContains(t, err, "another key than AUDIT_LOG_KEY")
	require.ErrorContains(t, err, store.key.Public)
	requireLog(t, db, store.key, 1)

	// The owner of the schema lets the log go on under the new one, and nobody else does.
	const change = "UPDATE audit.tree SET public_key = ''"
	_, err = connect(t, database.AppURL).Exec(t.Context(), change)
	require.Error(t, err)
	_, err = connect(t, database.OwnerURL).Exec(t.Context(), change)
	require.NoError(t, err)
	record(t, other, published(t, 2, nil))
	requireLog(t, db, other.key, 2)
}

func TestNothingIsAddedToATreeThatDoesNotFitItsTiles(t *testing.T) {
	t.Parallel()
	for name, data := range map[string]string{
		"as after a restore that brought the tiles back, and not the head": "substring(data FROM 1 FOR 64)",
		"as after one that brought the head back, and not the tiles":       "data || data",
	} {
		for guards, after := range map[string]string{
			"":                         "ALTER TABLE audit.tiles ENABLE ALWAYS TRIGGER tiles_grow, ENABLE ALWAYS TRIGGER tiles_stay",
			", and its guards are off": "",
		} {
			database := testkit.Postgres(t, "audit")
			db := testkit.Open(t, database.AppURL)
			store := open(t, db)
			record(t, store, events(t, 0, 3)...)
			_, err := connect(t, database.AdminURL).Exec(t.Context(),
				"ALTER TABLE audit.tiles DISABLE TRIGGER ALL; UPDATE audit.tiles SET data = "+data+"; "+after)
			require.NoError(t, err)

			_, err = store.Record(t.Context(), events(t, 3, 1))

			require.ErrorIs(t, err, trail.ErrTorn, name+guards)
			require.Equal(t, 3, count(t, db))
		}
	}
}
