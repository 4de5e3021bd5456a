package export

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sentryagent/agentidp/pkg/auditlog"
)

// ErrPastEnd says that an export was to begin after the end of the log.
var ErrPastEnd = errors.New("the log is shorter")

// errNoHash tells that the log lacks a hash that it must have.
var errNoHash = errors.New("a tile of the log is missing or too short")

// cachedTiles bounds the tiles of an export that are kept: 8 KiB each.
const cachedTiles = 64

// place is where a tile is.
type place struct {
	level int
	index int64
}

// tileCache reads the tiles of a log and keeps the last ones. A tile that grows
// after it was read still holds what a checkpoint of before needs.
type tileCache struct {
	log   Log
	kept  map[place][]byte
	order []place // the oldest first
}

func newTileCache(log Log) *tileCache {
	return &tileCache{log: log, kept: make(map[place][]byte, cachedTiles)}
}

// load answers tiles of one level by their indexes, each with at least need bytes.
func (t *tileCache) load(ctx context.Context, level int, need map[int64]int) (map[int64][]byte, error) {
	found := make(map[int64][]byte, len(need))
	var missing []int64
	for index, bytes := range need {
		if data := t.kept[place{level, index}]; len(data) >= bytes {
			found[index] = data
		} else {
			missing = append(missing, index)
		}
	}
	if len(missing) == 0 {
		return found, nil
	}
	read, err := t.log.Tiles(ctx, level, missing)
	if err != nil {
		return nil, err
	}
	for i, index := range missing {
		if len(read[i]) < need[index] {
			return nil, fmt.Errorf("%w: level %d, index %d", errNoHash, level, index)
		}
		found[index] = read[i]
		t.keep(place{level, index}, read[i])
	}
	return found, nil
}

// keep remembers a tile and forgets the oldest one.
func (t *tileCache) keep(at place, data []byte) {
	if _, known := t.kept[at]; !known {
		t.order = append(t.order, at)
	}
	t.kept[at] = data
	if len(t.order) > cachedTiles {
		delete(t.kept, t.order[0])
		t.order = t.order[1:]
	}
}

// leaves are the hashes of leaves.
func (t *tileCache) leaves(ctx context.Context, indexes []int64) ([]tlog.Hash, error) {
	need := map[int64]int{}
	for _, i := range indexes {
		tile, end := i/auditlog.TileWidth, int(i%auditlog.TileWidth+1)*tlog.HashSize
		need[tile] = max(need[tile], end)
	}
	tiles, err := t.load(ctx, 0, need)
	if err != nil {
		return nil, err
	}
	hashes := make([]tlog.Hash, len(indexes))
	for n, i := range indexes {
		copy(hashes[n][:], tiles[i/auditlog.TileWidth][i%auditlog.TileWidth*tlog.HashSize:])
	}
	return hashes, nil
}

// reader reads hashes by the numbering of tlog.StoredHashIndex.
func (t *tileCache) reader(ctx context.Context) tlog.HashReader {
	return tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		hashes := make([]tlog.Hash, len(indexes))
		for n, index := range indexes {
			tile := tlog.TileForIndex(auditlog.TileHeight, index)
			tiles, err := t.load(ctx, tile.L, map[int64]int{tile.N: tile.W * tlog.HashSize})
			if err != nil {
				return nil, err
			}
			hash, err := tlog.HashFromTile(tile, tiles[tile.N], index)
			if err != nil {
				return nil, err
			}
			hashes[n] = hash
		}
		return hashes, nil
	})
}

// proof is the inclusion proof of a leaf in the tree of size leaves; never nil.
func (t *tileCache) proof(ctx context.Context, size, index int64) ([]tlog.Hash, error) {
	proof, err := tlog.ProveRecord(size, index, t.reader(ctx))
	if err != nil {
		return nil, fmt.Errorf("prove leaf %d: %w", index, err)
	}
	return append([]tlog.Hash{}, proof...), nil
}
