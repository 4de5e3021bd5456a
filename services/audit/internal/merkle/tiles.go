package merkle

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/auditlog"
)

var errNoTile = apperr.New(apperr.NotFound, "The log has no such tile.")

// Tile is the data of a tile of hashes, or of a bundle of entries where tile.L is
// auditlog.EntriesLevel. It answers NOT_FOUND for a tile beyond the log, and for
// entries of which retention has removed one.
func (l *Log) Tile(ctx context.Context, tile tlog.Tile) ([]byte, error) {
	if tile.L == auditlog.EntriesLevel {
		return l.entries(ctx, tile)
	}
	data, err := l.Store.Tiles(ctx, []tlog.Tile{tile})
	if err != nil {
		return nil, err
	}
	if len(data[0]) < tile.W*tlog.HashSize {
		return nil, errNoTile
	}
	return data[0][:tile.W*tlog.HashSize], nil
}

func (l *Log) entries(ctx context.Context, tile tlog.Tile) ([]byte, error) {
	first := tile.N * auditlog.TileWidth
	leaves, err := l.Store.Leaves(ctx, first, tile.W)
	if err != nil {
		return nil, err
	}
	if len(leaves) != tile.W {
		return nil, errNoTile
	}
	now := l.Clock()
	var bundle []byte
	for i, leaf := range leaves {
		if leaf.Index != first+int64(i) || !l.Window.Shows(leaf.Timestamp, now) {
			return nil, errNoTile
		}
		entry, err := auditlog.Leaf(leaf.Payload)
		if err == nil {
			bundle, err = auditlog.AppendEntry(bundle, entry)
		}
		if err != nil {
			return nil, fmt.Errorf("leaf %d: %w", leaf.Index, err)
		}
	}
	return bundle, nil
}

var errNoHash = errors.New("a tile of the log is missing or too short")

// Hashes reads the hashes of the tree, numbered as by tlog.StoredHashIndex, off its
// tiles: those of one call, as far as they are not remembered, in one statement.
func (l *Log) Hashes(ctx context.Context) tlog.HashReader {
	return tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		var wanted []tlog.Tile
		at := map[place]int{}
		for _, index := range indexes {
			tile := tlog.TileForIndex(auditlog.TileHeight, index)
			if i, is := at[place{tile.L, tile.N}]; is {
				wanted[i].W = max(wanted[i].W, tile.W)
				continue
			}
			at[place{tile.L, tile.N}] = len(wanted)
			wanted = append(wanted, tile)
		}
		data, err := l.Store.Tiles(ctx, wanted)
		if err != nil {
			return nil, err
		}
		hashes := make([]tlog.Hash, len(indexes))
		for i, index := range indexes {
			tile := tlog.TileForIndex(auditlog.TileHeight, index)
			held := data[at[place{tile.L, tile.N}]]
			if len(held) < tile.W*tlog.HashSize {
				return nil, fmt.Errorf("%w: level %d, index %d", errNoHash, tile.L, tile.N)
			}
			if hashes[i], err = tlog.HashFromTile(tile, held[:tile.W*tlog.HashSize], index); err != nil {
				return nil, err
			}
		}
		return hashes, nil
	})
}
