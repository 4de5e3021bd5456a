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
// tiles: those of one call in one statement, and none of them twice. It is for one
// answer, and one goroutine.
func (l *Log) Hashes(ctx context.Context) tlog.HashReader {
	held := map[place][]byte{}
	return tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		if err := l.hold(ctx, held, indexes); err != nil {
			return nil, err
		}
		hashes := make([]tlog.Hash, len(indexes))
		for i, index := range indexes {
			tile := tlog.TileForIndex(auditlog.TileHeight, index)
			data := held[place{tile.L, tile.N}]
			if len(data) < tile.W*tlog.HashSize {
				return nil, fmt.Errorf("%w: level %d, index %d", errNoHash, tile.L, tile.N)
			}
			var err error
			if hashes[i], err = tlog.HashFromTile(tile, data[:tile.W*tlog.HashSize], index); err != nil {
				return nil, err
			}
		}
		return hashes, nil
	})
}

// hold reads what is not held yet of the tiles that have the hashes of these numbers.
func (l *Log) hold(ctx context.Context, held map[place][]byte, indexes []int64) error {
	var wanted []tlog.Tile
	at := map[place]int{}
	for _, index := range indexes {
		tile := tlog.TileForIndex(auditlog.TileHeight, index)
		where := place{tile.L, tile.N}
		if len(held[where]) >= tile.W*tlog.HashSize {
			continue
		}
		if i, is := at[where]; is {
			wanted[i].W = max(wanted[i].W, tile.W)
			continue
		}
		at[where] = len(wanted)
		wanted = append(wanted, tile)
	}
	if len(wanted) == 0 {
		return nil
	}
	data, err := l.Store.Tiles(ctx, wanted)
	if err != nil {
		return err
	}
	for i, tile := range wanted {
		held[place{tile.L, tile.N}] = data[i]
	}
	return nil
}
