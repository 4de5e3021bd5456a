package auditlog_test

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sentryagent/agentidp/pkg/auditlog"
)

func TestTilesHaveTheirPaths(t *testing.T) {
	t.Parallel()
	tile := func(level int, n int64, width int) tlog.Tile {
		return tlog.Tile{H: auditlog.TileHeight, L: level, N: n, W: width}
	}
	for path, want := range map[string]tlog.Tile{
		"tile/0/000":                  tile(0, 0, 256),
		"tile/0/000.p/1":              tile(0, 0, 1),
		"tile/7/255.p/255":            tile(7, 255, 255),
		"tile/1/x001/x234/067":        tile(1, 1234067, 256),
		"tile/entries/x123/456.p/100": tile(auditlog.EntriesLevel, 123456, 100),
		"tile/entries/000":            tile(auditlog.EntriesLevel, 0, 256),

		"tile/entries/x004/x503/x599/x627/x370/495": tile(auditlog.EntriesLevel, auditlog.MaxSize/256-1, 256),
	} {
		got, err := auditlog.ParseTilePath(path)
		require.NoError(t, err, path)
		require.Equal(t, want, got)
		require.Equal(t, path, auditlog.TilePath(want))
	}
	for _, path := range []string{
		"", "tile", "tile/", "tile/0", "tile/0/0", "tile/0/0000", "tile/8/0/000", "tile/data/000", "tile/8/000", "tile/-1/000",
		"tile/00/000", "tile/0/000.p/0", "tile/0/000.p/256", "tile/0/000.p/01", "tile/0/x000/001", "tile/0/001/001", "tile/0/000/",
		"tile/entries", "tile/Entries/000", "/tile/0/000", "tile/0/x999/x999/x999/x999/x999/x999/x999/999",
		"tile/entries/x004/x503/x599/x627/x370/496", "tile/entries/x072/x057/x594/x037/x927/936", "tile/0/x072/x057/x594/x037/x927/936",
	} {
		_, err := auditlog.ParseTilePath(path)
		require.Error(t, err, path)
	}
}

func TestEntriesGoIntoABundleAndBack(t *testing.T) {
	t.Parallel()
	leaves := [][]byte{[]byte(`{}`), {}, bytes.Repeat([]byte("x"), auditlog.MaxLeaf)}
	var bundle []byte
	for _, leaf := range leaves {
		var err error
		bundle, err = auditlog.AppendEntry(bundle, leaf)
		require.NoError(t, err)
	}
	require.Equal(t, []byte{0, 2, '{', '}', 0, 0, 0xff, 0xff}, bundle[:8])
	got, err := auditlog.ReadEntries(bundle)
	require.NoError(t, err)
	require.Equal(t, leaves, got)
	for _, cut := range []int{1, 3, len(bundle) - 1} {
		_, err := auditlog.ReadEntries(bundle[:cut])
		require.Error(t, err)
	}
	_, err = auditlog.AppendEntry(nil, make([]byte, auditlog.MaxLeaf+1))
	require.ErrorIs(t, err, auditlog.ErrLeafTooBig)
}

func TestATileIsAListOfHashes(t *testing.T) {
	t.Parallel()
	read, leaves := logOf(t, 300)
	data, err := tlog.ReadTileData(tlog.Tile{H: auditlog.TileHeight, L: 0, N: 1, W: 44}, read)
	require.NoError(t, err)
	hashes, err := auditlog.TileHashes(data)
	require.NoError(t, err)
	require.Equal(t, leaves[256:], hashes)
	_, err = auditlog.TileHashes(data[1:])
	require.Error(t, err)
	_, err = auditlog.TileHashes(make([]byte, 257*tlog.HashSize))
	require.Error(t, err)
}

func TestAnExportLineKeepsTheBytesOfItsLeaf(t *testing.T) {
	t.Parallel()
	leaf := []byte("{\"a\":\"<\u2028>\"}") // json.Marshal would escape all three
	hash := auditlog.HashLeaf(leaf)
	line := auditlog.AppendExportLine(nil, 12, hash, leaf, []tlog.Hash{hash, hash})
	require.True(t, bytes.HasSuffix(line, []byte("}\n")))
	var got auditlog.ExportLine
	require.NoError(t, json.Unmarshal(line, &got))
	require.Equal(t, auditlog.ExportLine{LeafIndex: 12, LeafHash: hash, Event: leaf, Proof: []tlog.Hash{hash, hash}}, got)
	require.Contains(t, string(line), string(leaf))

	line = auditlog.AppendExportLine(nil, 0, hash, nil, nil)
	require.JSONEq(t, `{"leafIndex":0,"leafHash":"`+hash.String()+`","event":null}`, string(line))
}
