package export_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sentryagent/agentidp/pkg/auditlog"
	"github.com/sentryagent/agentidp/services/audit/internal/export"
	"github.com/sentryagent/agentidp/services/audit/internal/merkle"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// shelf is a log in memory. Rows may be changed behind its back.
type shelf struct {
	merkle.Store

	frontier *auditlog.Frontier
	levels   [][]tlog.Hash
	rows     []export.Row
	strays   []export.Row
	dropped  []auditlog.DroppedDay
	fail     func(first int64) error
	noTiles  error         // of Tiles, but for the hashes of leaves
	noEnd    error         // of Strays
	most     int           // rows that were asked for at a time
	asked    int           // statements
	takes    time.Duration // a statement
}

func newShelf(t *testing.T, events int) *shelf {
	t.Helper()
	s := &shelf{frontier: &auditlog.Frontier{}, levels: make([][]tlog.Hash, 3)}
	for i := range events {
		payload := event(i)
		leaf, err := auditlog.Leaf(payload)
		require.NoError(t, err)
		s.rows = append(s.rows, export.Row{Index: int64(i), Payload: payload})
		s.add(auditlog.HashLeaf(leaf))
	}
	return s
}

// newShelfWithoutRows has leaves that match no filter.
func newShelfWithoutRows(t *testing.T, leaves int) *shelf {
	t.Helper()
	s := newShelf(t, 0)
	for range leaves {
		s.add(tlog.Hash{})
	}
	return s
}

func (s *shelf) add(hash tlog.Hash) {
	s.frontier.Add(hash)
	s.levels[0] = append(s.levels[0], hash)
	for level := 1; level < len(s.levels); level++ {
		below := s.levels[level-1]
		if len(below)%auditlog.TileWidth != 0 || len(below)/auditlog.TileWidth == len(s.levels[level]) {
			return
		}
		full := &auditlog.Frontier{}
		for _, h := range below[len(below)-auditlog.TileWidth:] {
			full.Add(h)
		}
		s.levels[level] = append(s.levels[level], full.Root())
	}
}

// event is the payload of number i; every seventh is a failure.
func event(i int) []byte {
	action, outcome := "token.issued", "success"
	if i%7 == 0 {
		action, outcome = "auth.failed", "failure"
	}
	return fmt.Appendf(nil, `{"schemaVersion":1,"eventId":"%s","timestamp":"%s","agentId":"%s","actorId":null,"action":"%s","outcome":"%s",
		"ipAddress":"203.0.113.7","userAgent":"<curl>","service":"token","requestId":"r-%d","metadata":{"reason":"invalid_secret"},"new":{"kept":true}}`,
		uuid.NewSHA1(uuid.Nil, fmt.Append(nil, i)), now.Add(time.Duration(i)*time.Second).Format(time.RFC3339Nano), uuid.Nil, action, outcome, i)
}

func (s *shelf) Head(context.Context) (merkle.Head, error) {
	size, root := s.frontier.Size(), s.frontier.Root()
	return merkle.Head{Size: size, Root: root, Signed: fmt.Appendf(nil, "log\n%d\n%s\n", size, root)}, s.failure(-1)
}

// exporter is one of what is on the shelf.
func (s *shelf) exporter() *export.Exporter {
	return export.New(s, merkle.New(merkle.Config{Store: s}), func() time.Time { return now.Add(time.Duration(s.asked) * s.takes) })
}

func (s *shelf) failure(first int64) error {
	if s.fail == nil {
		return nil
	}
	return s.fail(first)
}

func (s *shelf) Rows(_ context.Context, filter *trail.Filter, first, end int64, limit int) ([]export.Row, error) {
	s.most, s.asked = max(s.most, limit), s.asked+1
	var found []export.Row
	for _, row := range s.rows {
		if row.Index < first || row.Index >= end || len(found) == limit {
			continue
		}
		if filter != nil && filter.Action != nil && !bytes.Contains(row.Payload, []byte(*filter.Action)) {
			continue
		}
		found = append(found, row)
	}
	return found, s.failure(first)
}

func (s *shelf) Strays(ctx context.Context, _ int) ([]export.Row, error) {
	return s.strays, cmp.Or(s.noEnd, ctx.Err())
}

func (s *shelf) Tiles(_ context.Context, tiles []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(tiles))
	for n, tile := range tiles {
		if tile.L > 0 && s.noTiles != nil {
			return nil, s.noTiles
		}
		hashes := s.levels[tile.L]
		for _, h := range hashes[tile.N*auditlog.TileWidth : min((tile.N+1)*auditlog.TileWidth, int64(len(hashes)))] {
			data[n] = append(data[n], h[:]...)
		}
	}
	return data, nil
}

func (s *shelf) Dropped(ctx context.Context) ([]auditlog.DroppedDay, error) {
	return s.dropped, ctx.Err()
}

// output is what a client receives.
type output struct {
	bytes.Buffer

	flushed int
	fail    error
	seen    func(written string)
}

func (o *output) Flush() error {
	o.flushed++
	if o.seen != nil {
		o.seen(o.String())
	}
	return o.fail
}

// exported is what a client reads from it.
type exported struct {
	header  auditlog.ExportHeader
	lines   []auditlog.ExportLine
	trailer auditlog.ExportTrailer
}

func read(t *testing.T, text string) exported {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	require.GreaterOrEqual(t, len(lines), 2)
	var x exported
	require.NoError(t, json.Unmarshal([]byte(lines[0]), &x.header))
	require.NoError(t, json.Unmarshal([]byte(lines[len(lines)-1]), &x.trailer))
	for _, text := range lines[1 : len(lines)-1] {
		var line auditlog.ExportLine
		require.NoError(t, json.Unmarshal([]byte(text), &line))
		x.lines = append(x.lines, line)
	}
	return x
}

func write(t *testing.T, s *shelf, request export.Request) exported {
	t.Helper()
	text, complete := writeText(t, s, request)
	require.True(t, complete)
	return read(t, text)
}

func writeText(t *testing.T, s *shelf, request export.Request) (text string, complete bool) {
	t.Helper()
	x, err := s.exporter().Begin(t.Context(), request)
	require.NoError(t, err)
	out := &output{}
	complete, err = x.Write(t.Context(), out)
	require.NoError(t, err)
	return out.String(), complete
}

func TestAnExportGivesTheRootOfItsCheckpointWhereverItBegins(t *testing.T) {
	t.Parallel()
	s := newShelf(t, 1300)
	for _, first := range []int64{0, 1, 255, 256, 700, 1299, 1300} {
		x := write(t, s, export.Request{First: first, Format: export.FormatLog})

		frontier, err := auditlog.NewFrontier(x.header.First, x.header.Before)
		require.NoError(t, err)
		require.False(t, x.header.Filtered)
		for i, line := range x.lines {
			require.Equal(t, first+int64(i), line.LeafIndex)
			require.Equal(t, auditlog.HashLeaf(line.Event), line.LeafHash)
			frontier.Add(line.LeafHash)
		}
		c, err := auditlog.ParseCheckpoint(x.header.Checkpoint)
		require.NoError(t, err)
		require.Equal(t, c.Size, frontier.Size())
		require.Equal(t, c.Root, frontier.Root())
		require.Equal(t, auditlog.ExportTrailer{Cursor: "1300", Complete: true, Dropped: []auditlog.DroppedDay{}}, x.trailer)
	}
	require.Equal(t, 513, s.most, "rows are read page by page")
}

func TestAnExportCannotBeginPastTheEnd(t *testing.T) {
	t.Parallel()
	_, err := newShelf(t, 3).exporter().Begin(t.Context(), export.Request{First: 4, Format: export.FormatLog})
	require.ErrorIs(t, err, export.ErrPastEnd)
}

func TestAnEmptyLogIsExportedToo(t *testing.T) {
	t.Parallel()
	x := write(t, newShelf(t, 0), export.Request{Format: export.FormatLog})
	require.Empty(t, x.lines)
	require.Zero(t, x.header.TreeSize)
	require.NotNil(t, x.header.Before)
}

func TestWhatIsNotAsItWasLoggedIsShown(t *testing.T) {
	t.Parallel()
	s := newShelf(t, 8)
	s.rows[1].Payload = []byte(` {"a" : 1, "a":2} `)            // changed, and no canonical form
	s.rows = append(s.rows[:3], s.rows[4:]...)                  // taken away
	s.rows = append(s.rows[:5], s.rows[4:]...)                  // twice
	s.strays = []export.Row{{Index: 99, Payload: []byte(`{}`)}} // added
	s.dropped = []auditlog.DroppedDay{{Day: "2026-01-01", Events: 2, FirstLeaf: 3, LastLeaf: 5}, {Day: "2026-01-02", Events: 1, FirstLeaf: 8, LastLeaf: 8}}

	x := write(t, s, export.Request{Format: export.FormatLog})

	shown := make([]string, len(x.lines))
	for i, line := range x.lines {
		says := "wrong"
		switch {
		case string(line.Event) == "null":
			says = "gone"
		case auditlog.HashLeaf(line.Event) == line.LeafHash:
			says = "right"
		}
		shown[i] = fmt.Sprint(line.LeafIndex, " ", says)
	}
	require.Equal(t, []string{"0 right", "1 wrong", "2 right", "3 gone", "4 right", "5 right", "5 right", "6 right", "7 right", "99 right"}, shown)
	require.JSONEq(t, `{"a":1,"a":2}`, string(x.lines[1].Event))
	require.Equal(t, s.dropped[:1], x.trailer.Dropped, "the days with leaves before the end")
	rest := write(t, s, export.Request{Format: export.FormatLog, First: 7})
	require.Equal(t, s.dropped[:1], rest.trailer.Dropped, "also for who goes on behind them")
}

func TestAFilteredExportHasOnlyWhatMatchesAndProvesIt(t *testing.T) {
	t.Parallel()
	s := newShelf(t, 1500)
	action := "auth.failed"
	x := write(t, s, export.Request{Filter: &trail.Filter{Action: &action}, Format: export.FormatLog, Proofs: true})
	require.True(t, x.header.Filtered)
	require.Len(t, x.lines, 215)
	c, err := auditlog.ParseCheckpoint(x.header.Checkpoint)
	require.NoError(t, err)
	for i, line := range x.lines {
		require.EqualValues(t, 7*i, line.LeafIndex)
		require.NoError(t, tlog.CheckRecord(line.Proof, c.Size, c.Root, line.LeafIndex, auditlog.HashLeaf(line.Event)))
	}
}

func TestAFilterThatMatchesLittleIsServedByFewStatements(t *testing.T) {
	t.Parallel()
	s := newShelfWithoutRows(t, 20_000)
	none := "agent.created"
	x := write(t, s, export.Request{Filter: &trail.Filter{Action: &none}, Format: export.FormatLog})
	require.Empty(t, x.lines)
	require.LessOrEqual(t, s.asked, 5, "2048, 4096, 8192, 16384 leaves at a time")
}

func TestAnExportThatFindsNothingForAWhileEndsAndGoesOnFromItsCursor(t *testing.T) {
	t.Parallel()
	s := newShelfWithoutRows(t, 40_000)
	rare := "agent.created"
	s.rows = []export.Row{{Index: 2048, Payload: []byte(`{"action":"agent.created"}`)}, {Index: 39_999, Payload: []byte(`{"action":"agent.created"}`)}}
	s.takes = 10 * time.Second
	request := export.Request{Filter: &trail.Filter{Action: &rare}, Format: export.FormatLog}
	var found []int64
	var ends []bool
	for len(ends) == 0 || !ends[len(ends)-1] {
		text, complete := writeText(t, s, request)
		part := read(t, text)
		require.Equal(t, complete, part.trailer.Complete)
		for _, line := range part.lines {
			found = append(found, line.LeafIndex)
		}
		next, err := strconv.ParseInt(part.trailer.Cursor, 10, 64)
		require.NoError(t, err)
		require.Greater(t, next, request.First, "each part gets further")
		request.First, ends = next, append(ends, complete)
	}
	require.Equal(t, []int64{2048, 39_999}, found)
	require.Equal(t, []bool{false, false, true}, ends, "20 s after the last line")

	s.takes = time.Minute
	for first := int64(0); first < 40_000; { // however long a statement takes
		request.First = first
		text, _ := writeText(t, s, request)
		next, err := strconv.ParseInt(read(t, text).trailer.Cursor, 10, 64)
		require.NoError(t, err)
		require.Greater(t, next, first)
		first = next
	}

	request.First, request.Format = 0, export.FormatCloudEvents
	_, complete := writeText(t, s, request)
	require.True(t, complete, "what has no line to say so does not end early")
}

func TestABrokenExportGoesOnFromItsCursor(t *testing.T) {
	t.Parallel()
	broken := errors.New("postgres is away")
	for _, filter := range []*trail.Filter{nil, {}} {
		s := newShelf(t, 1300)
		s.fail = func(first int64) error {
			if first >= 512 {
				return broken
			}
			return nil
		}
		x, err := s.exporter().Begin(t.Context(), export.Request{Filter: filter, Format: export.FormatLog})
		require.NoError(t, err)
		out := &output{}
		complete, err := x.Write(t.Context(), out)
		require.ErrorIs(t, err, broken)
		require.False(t, complete)
		begun := read(t, out.String())
		require.False(t, begun.trailer.Complete)

		s.fail = nil
		var first int64
		_, err = fmt.Sscan(begun.trailer.Cursor, &first)
		require.NoError(t, err)
		rest := write(t, s, export.Request{Filter: filter, First: first, Format: export.FormatLog})
		walked := append(begun.lines, rest.lines...)
		require.Len(t, walked, 1300)
		for i, line := range walked {
			require.EqualValues(t, i, line.LeafIndex, "no gap and no repeat")
		}
	}
}

func TestAnExportThatIsAskedToStopEndsWell(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithCancel(t.Context())
	x, err := newShelf(t, 600).exporter().Begin(ctx, export.Request{Format: export.FormatLog})
	require.NoError(t, err)
	out := &output{seen: func(string) { stop() }}
	complete, err := x.Write(ctx, out)
	require.NoError(t, err)
	require.False(t, complete)
	got := read(t, out.String())
	require.Equal(t, "512", got.trailer.Cursor)
	require.Len(t, got.lines, 512)
}

func TestAClientThatIsGoneEndsAnExport(t *testing.T) {
	t.Parallel()
	s := newShelf(t, 600)
	x, err := s.exporter().Begin(t.Context(), export.Request{Format: export.FormatLog})
	require.NoError(t, err)
	gone := errors.New("gone")
	_, err = x.Write(t.Context(), &output{fail: gone})
	require.ErrorIs(t, err, gone)
	require.False(t, x.Ended())
	require.Equal(t, 1, s.asked)
}

func TestARowThatIsAddedIsShownWhereverAPageEnds(t *testing.T) {
	t.Parallel()
	for _, index := range []int{0, 510, 511, 512, 599} {
		s := newShelf(t, 600)
		forged := export.Row{Index: int64(index), Payload: []byte(`{"eventId":"forged"}`)}
		s.rows = append(s.rows[:index+1:index+1], append([]export.Row{forged}, s.rows[index+1:]...)...)
		x := write(t, s, export.Request{Format: export.FormatLog})
		require.Len(t, x.lines, 601)
		require.EqualValues(t, index, x.lines[index+1].LeafIndex)
		require.JSONEq(t, string(forged.Payload), string(x.lines[index+1].Event))
	}
}

func TestMoreRowsThanAPageUnderOneLeafDoNotHoldAnExportUp(t *testing.T) {
	t.Parallel()
	s := newShelf(t, 3)
	forged := slices.Repeat([]export.Row{{Index: 1, Payload: []byte(`{"eventId":"forged"}`)}}, 600)
	s.rows = slices.Insert(s.rows, 2, forged...)
	s.fail = func(int64) error {
		if s.asked > 10 {
			return errors.New("it gets no further")
		}
		return nil
	}
	x := write(t, s, export.Request{Format: export.FormatLog})
	require.Len(t, x.lines, 1+513+1, "as many of them as are read at a time")
	require.EqualValues(t, 2, x.lines[514].LeafIndex)
}

func TestAnExportWhoseProofsCannotBeReadEndsWithATrailer(t *testing.T) {
	t.Parallel()
	away := errors.New("postgres is away")
	s := newShelf(t, 600)
	s.noTiles = away
	x, err := s.exporter().Begin(t.Context(), export.Request{Format: export.FormatLog, Proofs: true})
	require.NoError(t, err)
	out := &output{}
	complete, err := x.Write(t.Context(), out)
	require.ErrorIs(t, err, away)
	require.False(t, complete)
	require.True(t, x.Ended())
	require.Equal(t, auditlog.ExportTrailer{Cursor: "0", Dropped: []auditlog.DroppedDay{}}, read(t, out.String()).trailer)
}

func TestAnExportWhoseEndCannotBeReadIsNotComplete(t *testing.T) {
	t.Parallel()
	away := errors.New("postgres is away")
	s := newShelf(t, 3)
	s.noEnd = away
	x, err := s.exporter().Begin(t.Context(), export.Request{Format: export.FormatLog})
	require.NoError(t, err)
	out := &output{}
	complete, err := x.Write(t.Context(), out)
	require.ErrorIs(t, err, away)
	require.False(t, complete)
	require.True(t, x.Ended())
	require.Equal(t, auditlog.ExportTrailer{Cursor: "3", Dropped: []auditlog.DroppedDay{}}, read(t, out.String()).trailer)
}
