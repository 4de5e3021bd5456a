package merkle_test

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sentryagent/agentidp/services/audit/internal/merkle"
)

// counted is a store that counts what it is asked.
type counted struct {
	merkle.Store

	size         atomic.Int64
	heads, tiles atomic.Int64
	underWay     atomic.Int64
	crowded      atomic.Bool // two heads were read at the same time
}

func (c *counted) Head(context.Context) (merkle.Head, error) {
	c.heads.Add(1)
	if c.underWay.Add(1) > 1 {
		c.crowded.Store(true)
	}
	defer c.underWay.Add(-1)
	runtime.Gosched()
	return merkle.Head{Size: c.size.Load(), Signed: []byte("note")}, nil
}

func (c *counted) Tiles(_ context.Context, tiles []tlog.Tile) ([][]byte, error) {
	c.tiles.Add(int64(len(tiles)))
	data := make([][]byte, len(tiles))
	for i, tile := range tiles {
		width := min(max(c.size.Load()-tile.N*256, 0), 256)
		data[i] = make([]byte, width*tlog.HashSize)
	}
	return data, nil
}

func TestAThousandWhoAskForTheCheckpointAreOneReadAtATime(t *testing.T) {
	t.Parallel()
	store := &counted{}
	store.size.Store(5)
	log := merkle.New(merkle.Config{Store: store})
	var all sync.WaitGroup
	var answered atomic.Int64
	for range 1000 {
		all.Go(func() {
			if signed, err := log.Checkpoint(context.Background()); err == nil && string(signed) == "note" {
				answered.Add(1)
			}
		})
	}
	all.Wait()
	require.EqualValues(t, 1000, answered.Load())
	require.False(t, store.crowded.Load())

	before := store.heads.Load()
	for range 3 {
		_, err := log.Checkpoint(t.Context())
		require.NoError(t, err)
	}
	require.EqualValues(t, 3, store.heads.Load()-before, "nobody is told what was read before")
}

func TestAWholeTileIsReadOnceAndAPartOfOneEachTime(t *testing.T) {
	t.Parallel()
	store := &counted{}
	store.size.Store(300)
	log := merkle.New(merkle.Config{Store: store})
	read := func(n int64, width int) int64 {
		before := store.tiles.Load()
		data, err := log.Tile(t.Context(), tlog.Tile{H: 8, L: 0, N: n, W: width})
		require.NoError(t, err)
		require.Len(t, data, width*tlog.HashSize)
		return store.tiles.Load() - before
	}
	require.EqualValues(t, 1, read(0, 256))
	require.Zero(t, read(0, 256))
	require.Zero(t, read(0, 7), "a part of it is known too")
	require.EqualValues(t, 1, read(1, 44))
	require.EqualValues(t, 1, read(1, 44))

	_, err := log.Newest(t.Context())
	require.NoError(t, err)
	store.size.Store(280)
	_, err = log.Newest(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 1, read(0, 256), "a backup took the place of the log")

	store.size.Store(256 * 2000)
	for n := range int64(2000) {
		read(n, 256)
	}
	again := int64(0)
	for n := range int64(2000) {
		again += read(n, 256)
	}
	require.GreaterOrEqual(t, again, int64(2000-1024), "not all are remembered")
}

func TestOneAnswerReadsNoTileTwice(t *testing.T) {
	t.Parallel()
	store := &counted{}
	store.size.Store(300)
	hashes := merkle.New(merkle.Config{Store: store}).Hashes(t.Context())
	for leaf := range int64(299) {
		found, err := hashes.ReadHashes([]int64{tlog.StoredHashIndex(0, 299), tlog.StoredHashIndex(0, leaf)})
		require.NoError(t, err)
		require.Len(t, found, 2)
	}
	require.EqualValues(t, 2, store.tiles.Load(), "the last one, of which there is a part, too")
}
