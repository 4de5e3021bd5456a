package auditlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

// TileHeight is the number of tree levels that a tile spans, and TileWidth the most hashes (or entries)
// it holds: C2SP tlog-tiles fixes both.
const (
	TileHeight = 8
	TileWidth  = 1 << TileHeight
)

// EntriesLevel stands, in Tile.L, for a bundle of entries in place of hashes.
const EntriesLevel = -1

// maxTileLevel is the highest level of a tree with fewer than 2^63 leaves.
const maxTileLevel = 7

var errTilePath = errors.New("not the path of a tile")

// TilePath is where a tile is found below the log's base: tile/<L>/<N>[.p/<W>], or tile/entries/<N>[.p/<W>].
func TilePath(t tlog.Tile) string {
	// The same as the Go checksum database's, but for the height, which tlog-tiles leaves out.
	_, rest, _ := strings.Cut(strings.TrimPrefix(t.Path(), "tile/"), "/")
	return "tile/" + strings.Replace(rest, "data/", "entries/", 1)
}

// ParseTilePath reads what TilePath writes, and nothing else: there is one path for each tile. A tile whose hashes or
// entries are counted beyond MaxSize is none.
func ParseTilePath(path string) (tlog.Tile, error) {
	rest, ok := strings.CutPrefix(path, "tile/")
	if !ok || strings.HasPrefix(rest, "data/") {
		return tlog.Tile{}, errTilePath
	}
	if entries, is := strings.CutPrefix(rest, "entries/"); is {
		rest = "data/" + entries
	}
	t, err := tlog.ParseTilePath(fmt.Sprintf("tile/%d/%s", TileHeight, rest))
	if err != nil || t.L > maxTileLevel || t.N >= MaxSize/TileWidth || TilePath(t) != path {
		return tlog.Tile{}, errTilePath
	}
	return t, nil
}

// AppendEntry adds a leaf to a bundle of entries: its length in 16 bits, big-endian, and its bytes.
func AppendEntry(bundle, leaf []byte) ([]byte, error) {
	if len(leaf) > MaxLeaf {
		return nil, ErrLeafTooBig
	}
	return append(binary.BigEndian.AppendUint16(bundle, uint16(len(leaf))), leaf...), nil //nolint:gosec // checked above
}

// ReadEntries takes a bundle apart. The leaves are parts of bundle, not copies.
func ReadEntries(bundle []byte) ([][]byte, error) {
	var leaves [][]byte
	for len(bundle) > 0 {
		if len(bundle) < 2 {
			return nil, errors.New("the bundle of entries is cut off")
		}
		n := 2 + int(binary.BigEndian.Uint16(bundle))
		if len(bundle) < n {
			return nil, errors.New("the bundle of entries is cut off")
		}
		leaves, bundle = append(leaves, bundle[2:n:n]), bundle[n:]
	}
	return leaves, nil
}

// TileHashes takes the data of a tile of hashes apart.
func TileHashes(data []byte) ([]tlog.Hash, error) {
	if len(data)%tlog.HashSize != 0 || len(data) > TileWidth*tlog.HashSize {
		return nil, errors.New("not the data of a tile")
	}
	hashes := make([]tlog.Hash, len(data)/tlog.HashSize)
	for i := range hashes {
		copy(hashes[i][:], data[i*tlog.HashSize:])
	}
	return hashes, nil
}
