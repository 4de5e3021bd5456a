package auditlog

import "golang.org/x/mod/sumdb/tlog"

// TilePart is what leaves that were added to a tree add to one of its tiles: Data, whole hashes, comes
// after what the tile (level, index) holds already.
type TilePart struct {
	Level int
	Index int64
	Data  []byte
}

// Extend adds leaves, given by their hashes, to a tree, and returns what that adds to its tiles: for each
// level the parts in the order of their index, level 0 first.
func (f *Frontier) Extend(leaves []tlog.Hash) []TilePart {
	var levels [maxTileLevel + 1][]TilePart
	for _, leaf := range leaves {
		f.carry(leaf, func(height int, number int64, hash tlog.Hash) {
			if tile := height / TileHeight; height%TileHeight == 0 && tile <= maxTileLevel {
				levels[tile] = appendHashTo(levels[tile], tile, number, hash)
			}
		})
	}
	var parts []TilePart
	for _, level := range levels {
		parts = append(parts, level...)
	}
	return parts
}

// appendHashTo adds the hash that is number n of its level.
func appendHashTo(parts []TilePart, level int, n int64, hash tlog.Hash) []TilePart {
	index := n / TileWidth
	if last := len(parts) - 1; last < 0 || parts[last].Index != index {
		parts = append(parts, TilePart{Level: level, Index: index})
	}
	part := &parts[len(parts)-1]
	part.Data = append(part.Data, hash[:]...)
	return parts
}
