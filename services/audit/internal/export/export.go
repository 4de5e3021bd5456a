// Package export writes the audit trail as a stream of lines, in the order of the
// log: for an auditor who wants to verify it, and for the systems that others keep
// their logs in. It holds a page of events at a time, however long the trail is,
// and can be gone on with from any line. It decides neither who may read what nor
// how events and hashes are stored, and writes no event other than the log has it.
package export

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sentryagent/agentidp/pkg/auditlog"
	"github.com/sentryagent/agentidp/services/audit/internal/merkle"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

// ErrPastEnd says that an export was to begin after the end of the log.
var ErrPastEnd = errors.New("the log is shorter")

const (
	// pageEvents is how many events are held at a time, and one to see whether there are more.
	pageEvents = 512
	// A filtered export looks at so many leaves per statement: few where many of
	// them match, more where few do. One statement stays a matter of milliseconds.
	leastWindow = 4 * pageEvents
	mostWindow  = 128 * pageEvents
	// silence is how long FormatLog may write nothing, as a filter may make it do, before
	// it ends with a line that says where to go on: a client or a proxy that hears nothing
	// for a minute takes the connection for dead.
	silence = 20 * time.Second
)

// Row is one stored event and its place in the log.
type Row struct {
	Index   int64
	Payload []byte // as published
}

// Store is where the events of an export come from.
type Store interface {
	// Rows are the stored events with first ≤ index < end that match, in the order
	// of their indexes, at most limit of them. A nil filter matches all.
	Rows(ctx context.Context, filter *trail.Filter, first, end int64, limit int) ([]Row, error)
	// Strays are events that are stored under an index that the log has not given
	// out, at most limit of them: somebody else put them there.
	Strays(ctx context.Context, limit int) ([]Row, error)
	// Dropped are the days that retention has removed.
	Dropped(ctx context.Context) ([]auditlog.DroppedDay, error)
}

// Log has the hashes of which events are the leaves; *merkle.Log is one.
type Log interface {
	// Public is the head up to which exports go.
	Public(ctx context.Context) (merkle.Head, error)
	// Hashes reads hashes numbered as by tlog.StoredHashIndex.
	Hashes(ctx context.Context) tlog.HashReader
}

// Request says what is wanted.
type Request struct {
	// Filter restricts the events; nil wants the whole log, gaps included.
	Filter *trail.Filter
	First  int64 // the leaf to begin with
	Format Format
	// Proofs adds an inclusion proof to each event; only with FormatLog.
	Proofs bool
}

// Exporter writes exports of one log.
type Exporter struct {
	store Store
	log   Log
	clock func() time.Time
}

// New returns an Exporter of log and the events that are its leaves.
func New(store Store, log Log, clock func() time.Time) *Exporter {
	return &Exporter{store: store, log: log, clock: clock}
}

// Begin prepares an export up to the latest checkpoint. ErrPastEnd tells that the
// log has no leaf before req.First yet.
func (e *Exporter) Begin(ctx context.Context, req Request) (*Export, error) {
	head, err := e.log.Public(ctx)
	if err != nil {
		return nil, err
	}
	if req.First > head.Size {
		return nil, ErrPastEnd
	}
	if head.Size == 0 {
		head.Signed = nil // an export of nothing shows no checkpoint
	}
	x := &Export{store: e.store, log: e.log, clock: e.clock, request: req, head: head, next: req.First, window: leastWindow}
	if req.Format == FormatLog {
		frontier, err := auditlog.ReadFrontier(req.First, e.log.Hashes(ctx))
		if err != nil {
			return nil, fmt.Errorf("read the hashes before leaf %d: %w", req.First, err)
		}
		x.before = frontier.Hashes()
	}
	return x, nil
}

// Output is where an export goes. What was written is on its way after Flush.
type Output interface {
	io.Writer
	Flush() error
}

// Export is one export under way.
type Export struct {
	store   Store
	log     Log
	clock   func() time.Time
	request Request
	head    merkle.Head
	before  []tlog.Hash
	next    int64 // the leaf to go on with
	window  int64
	line    []byte
	ended   bool
}

// Write writes all of it. It ends early, with complete false, when ctx ends, when
// the log cannot be read (which is the error), or when FormatLog had no line to write
// for a while, and then is some leaves further; FormatLog says so in its last line,
// whose cursor goes on from there. An error of out ends it at once; Ended tells the
// two apart.
func (x *Export) Write(ctx context.Context, out Output) (complete bool, err error) {
	w := bufio.NewWriterSize(out, 64<<10)
	if err := x.writeHeader(w); err != nil {
		return false, err
	}
	var broken error
	wrote := x.clock()
	for x.next < x.head.Size && ctx.Err() == nil && broken == nil {
		var lines []line
		var after int64
		if lines, after, broken = x.page(ctx); broken != nil {
			break
		}
		if err := x.writeLines(w, lines); err != nil {
			return false, err
		}
		if err := flush(w, out); err != nil {
			return false, err
		}
		x.next = after
		if at := x.clock(); len(lines) > 0 {
			wrote = at
		} else if x.request.Format == FormatLog && at.Sub(wrote) >= silence {
			break
		}
	}
	if ctx.Err() != nil {
		broken = nil // that a statement was broken off for it is no failure
	}
	complete = x.next >= x.head.Size && broken == nil
	// What is written last is short, and wanted also when ctx has ended.
	complete, err = x.writeEnd(context.WithoutCancel(ctx), w, complete)
	if broken == nil {
		broken = err
	}
	if err := flush(w, out); err != nil {
		return false, err
	}
	return complete, broken
}

// Ended tells whether the export says itself how far it goes: a trailer was written.
// What has none must not end like a response that is whole.
func (x *Export) Ended() bool { return x.ended }

func flush(w *bufio.Writer, out Output) error {
	if err := w.Flush(); err != nil {
		return err
	}
	return out.Flush()
}

// line is a leaf to be written.
type line struct {
	index int64
	hash  tlog.Hash
	leaf  []byte // nil where the event is gone
	proof []tlog.Hash
}

// page reads the next leaves and says where the page after it begins.
func (x *Export) page(ctx context.Context) (lines []line, after int64, err error) {
	span := int64(pageEvents)
	if x.request.Filter != nil {
		span = x.window
	}
	end := min(x.next+span, x.head.Size)
	rows, err := x.store.Rows(ctx, x.request.Filter, x.next, end, pageEvents+1)
	if err != nil {
		return nil, 0, err
	}
	rows, end = fit(rows, end)
	if x.request.Filter != nil {
		x.adapt(len(rows))
		lines, err = x.only(ctx, rows)
	} else {
		lines, err = x.all(ctx, rows, end)
	}
	if err == nil && x.request.Proofs {
		err = x.prove(ctx, lines)
	}
	return lines, end, err
}

// prove adds its inclusion proof to each line.
func (x *Export) prove(ctx context.Context, lines []line) error {
	hashes := x.log.Hashes(ctx)
	for i := range lines {
		proof, err := tlog.ProveRecord(x.head.Size, lines[i].index, hashes)
		if err != nil {
			return fmt.Errorf("prove leaf %d: %w", lines[i].index, err)
		}
		lines[i].proof = append([]tlog.Hash{}, proof...) // never nil: that of the only leaf is empty
	}
	return nil
}

// leaves are the hashes of leaves.
func (x *Export) leaves(ctx context.Context, leaves []int64) ([]tlog.Hash, error) {
	indexes := make([]int64, len(leaves))
	for i, leaf := range leaves {
		indexes[i] = tlog.StoredHashIndex(0, leaf)
	}
	return x.log.Hashes(ctx).ReadHashes(indexes)
}

// fit ends a page before its last leaf if it has more rows than one: of the rows
// with that index there may be more, and they belong to one page.
func fit(rows []Row, end int64) ([]Row, int64) {
	if len(rows) <= pageEvents {
		return rows, end
	}
	last := rows[len(rows)-1].Index
	if rows[0].Index == last {
		return rows, last + 1
	}
	for rows[len(rows)-1].Index == last {
		rows = rows[:len(rows)-1]
	}
	return rows, last
}

// adapt looks at more leaves next time where few matched, and at fewer where many did.
func (x *Export) adapt(matched int) {
	switch {
	case matched > pageEvents/2:
		x.window = max(x.window/2, leastWindow)
	case matched < pageEvents/8:
		x.window = min(x.window*2, mostWindow)
	}
}

// only are the lines of rows.
func (x *Export) only(ctx context.Context, rows []Row) ([]line, error) {
	indexes := make([]int64, len(rows))
	for i, row := range rows {
		indexes[i] = row.Index
	}
	hashes, err := x.leaves(ctx, indexes)
	if err != nil {
		return nil, err
	}
	lines := make([]line, len(rows))
	for i, row := range rows {
		lines[i] = line{index: row.Index, hash: hashes[i], leaf: leafOf(row.Payload)}
	}
	return lines, nil
}

// all are the lines of the leaves from x.next to end, with or without a row. Two
// rows with one index are two lines: whoever verifies has to see both.
func (x *Export) all(ctx context.Context, rows []Row, end int64) ([]line, error) {
	indexes := make([]int64, 0, end-x.next)
	for i := x.next; i < end; i++ {
		indexes = append(indexes, i)
	}
	hashes, err := x.leaves(ctx, indexes)
	if err != nil {
		return nil, err
	}
	lines := make([]line, 0, len(indexes))
	for n, i := range indexes {
		l := line{index: i, hash: hashes[n]}
		if len(rows) == 0 || rows[0].Index != i {
			lines = append(lines, l)
		}
		for ; len(rows) > 0 && rows[0].Index == i; rows = rows[1:] {
			l.leaf = leafOf(rows[0].Payload)
			lines = append(lines, l)
		}
	}
	return lines, nil
}

// leafOf is the canonical form of a stored event. What has none was not stored by
// the log; it is shown as it is, and will not match its hash.
func leafOf(payload []byte) []byte {
	if leaf, err := auditlog.Leaf(payload); err == nil {
		return leaf
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, payload); err != nil {
		return []byte("{}")
	}
	return compact.Bytes()
}

func (x *Export) writeHeader(w io.Writer) error {
	if x.request.Format != FormatLog {
		return nil
	}
	return writeJSON(w, auditlog.ExportHeader{
		Checkpoint: string(x.head.Signed), TreeSize: x.head.Size, First: x.request.First, Before: x.before, Filtered: x.request.Filter != nil,
	})
}

// writeLines reads nothing: its errors are those of w, and what a format cannot say.
func (x *Export) writeLines(w io.Writer, lines []line) (err error) {
	for _, l := range lines {
		x.line = x.line[:0]
		switch {
		case x.request.Format == FormatLog:
			x.line = auditlog.AppendExportLine(x.line, l.index, l.hash, l.leaf, l.proof)
		case l.leaf == nil:
			continue
		default:
			if x.line, err = x.request.Format.appendEvent(x.line, l); err != nil {
				return fmt.Errorf("leaf %d: %w", l.index, err)
			}
		}
		if _, err := w.Write(x.line); err != nil {
			return err
		}
	}
	return nil
}

// writeEnd writes what comes after the last leaf, and says whether the export is
// complete still. What cannot be read makes the trailer say that it is not.
func (x *Export) writeEnd(ctx context.Context, w io.Writer, complete bool) (bool, error) {
	if x.request.Format != FormatLog {
		return complete, nil
	}
	var strayErr error
	if complete && x.request.Filter == nil {
		var strays []line
		strays, strayErr = x.strays(ctx)
		if err := x.writeLines(w, strays); err != nil {
			return false, err
		}
	}
	dropped, dropErr := x.store.Dropped(ctx)
	unread := errors.Join(strayErr, dropErr)
	trailer := auditlog.ExportTrailer{Cursor: strconv.FormatInt(x.next, 10), Complete: complete && unread == nil, Dropped: []auditlog.DroppedDay{}}
	// Also days before this part: what went on after a broken connection has the trailer for both.
	for _, day := range dropped {
		if day.Events > 0 && day.FirstLeaf < x.next {
			trailer.Dropped = append(trailer.Dropped, day)
		}
	}
	if err := writeJSON(w, trailer); err != nil {
		return false, err
	}
	x.ended = true
	return trailer.Complete, unread
}

// strays are events that are stored and are no leaf: whoever verifies has to find
// them.
func (x *Export) strays(ctx context.Context) ([]line, error) {
	rows, err := x.store.Strays(ctx, pageEvents)
	if err != nil {
		return nil, err
	}
	lines := make([]line, len(rows))
	for i, row := range rows {
		leaf := leafOf(row.Payload)
		lines[i] = line{index: row.Index, hash: auditlog.HashLeaf(leaf), leaf: leaf}
	}
	return lines, nil
}

func writeJSON(w io.Writer, value any) error {
	encoded, err := json.Marshal(value)
	if err != nil {
		return err
	}
	_, err = w.Write(append(encoded, '\n'))
	return err
}
