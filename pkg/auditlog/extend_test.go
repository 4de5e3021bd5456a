package auditlog_test

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sentryagent/agentidp/pkg/auditlog"
)

// numbered is a leaf hash of its own for each number.
func numbered(n int64) tlog.Hash {
	return auditlog.HashLeaf(binary.BigEndian.AppendUint64(nil, uint64(n)))
}

func TestExtendingByBatchesMakesTheTilesAndTheRootOfTheReference(t *testing.T) {
	t.Parallel()
	const size = 70_000 // past one full tile of level 1, so that level 2 has a hash
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		hashes := make([]tlog.Hash, len(indexes))
		for i, index := range indexes {
			hashes[i] = stored[index]
		}
		return hashes, nil
	})
	type place struct {
		level int
		index int64
	}
	tiles := map[place][]byte{}
	frontier := &auditlog.Frontier{}
	batches := []int{1, 2, 255, 256, 257, 500, 3}
	for next, round := int64(0), 0; next < size; round++ {
		leaves := make([]tlog.Hash, min(int64(batches[round%len(batches)]), size-next))
		for i := range leaves {
			leaves[i] = numbered(next + int64(i))
			hashes, err := tlog.StoredHashesForRecordHash(next+int64(i), leaves[i], reader)
			require.NoError(t, err)
			stored = append(stored, hashes...)
		}
		for _, part := range frontier.Extend(leaves) {
			at := place{part.Level, part.Index}
			tiles[at] = append(tiles[at], part.Data...)
		}
		next += int64(len(leaves))
		want, err := tlog.TreeHash(next, reader)
		require.NoError(t, err)
		require.Equal(t, want, frontier.Root(), "root of %d leaves", next)
		require.Equal(t, next, frontier.Size())
	}
	reference := tlog.NewTiles(auditlog.TileHeight, 0, size)
	full := map[place][]byte{}
	for _, tile := range reference {
		data, err := tlog.ReadTileData(tile, reader)
		require.NoError(t, err)
		full[place{tile.L, tile.N}] = data
	}
	require.Equal(t, full, tiles)
}

func TestExtendingByNothingChangesNothing(t *testing.T) {
	t.Parallel()
	frontier := &auditlog.Frontier{}
	require.Empty(t, frontier.Extend(nil))
	require.Zero(t, frontier.Size())
}

func TestAddingALeafAllocatesNothing(t *testing.T) {
	f, leaf := &auditlog.Frontier{}, auditlog.HashLeaf([]byte("x"))
	for range 1 << 10 {
		f.Add(leaf) // so that there is room for the hashes of as many subtrees
	}
	require.Zero(t, testing.AllocsPerRun(100, func() { f.Add(leaf) }))
}
