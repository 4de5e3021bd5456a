package auditor

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sentryagent/agentidp/pkg/auditlog"
)

// maxLine bounds a line: a leaf, its proof, and the spaces of a program that printed it anew.
const maxLine = 1 << 20

// line is any line of an export. Which of the pointers are set tells which.
type line struct {
	Checkpoint *string
	TreeSize   int64
	First      int64
	Before     []tlog.Hash
	Filtered   bool

	LeafIndex *int64
	LeafHash  tlog.Hash
	Event     json.RawMessage
	Proof     []tlog.Hash

	Cursor   *string
	Complete bool
	Dropped  []auditlog.DroppedDay
}

var errNotExport = errors.New("not a line of an export")

// eachLine hands every line of an export to use, and says where one could not be read.
func eachLine(r io.Reader, use func(*line) error) error {
	scanner := bufio.NewScanner(r)
	scanner.Buffer(make([]byte, 0, 1<<16), maxLine)
	for number := 1; scanner.Scan(); number++ {
		l, err := parse(scanner.Bytes())
		if err == nil && l != nil {
			err = use(l)
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", number, err)
		}
	}
	return scanner.Err()
}

// place is where an export stands: the leaf to go on with, and the size of the tree that it is of.
type place struct{ next, size int64 }

// pass takes the place behind a line. A line behind the end of the tree is an event that is no leaf, and no
// place to go on from; nor is a cursor that says more than there is.
func (p *place) pass(l *line) {
	switch {
	case l.Checkpoint != nil:
		p.next, p.size = max(p.next, min(l.First, l.TreeSize)), l.TreeSize
	case l.LeafIndex != nil && *l.LeafIndex < p.size:
		p.next = max(p.next, *l.LeafIndex+1) // a second line of a leaf is no step back
	case l.Cursor != nil:
		if cursor, err := strconv.ParseInt(*l.Cursor, 10, 64); err == nil {
			p.next = max(p.next, min(cursor, p.size))
		}
	}
}

// gone tells whether the line has the hash of an event without the event.
func (l *line) gone() bool { return len(l.Event) == 0 || string(l.Event) == "null" }

// hash is the leaf hash of the line's event. A program that printed the line anew has changed its spaces
// or escapes, not what it says, so the canonical form is tried where the bytes as they are do not fit.
func (l *line) hash() tlog.Hash {
	asIs := auditlog.HashLeaf(l.Event)
	if asIs == l.LeafHash {
		return asIs
	}
	if leaf, err := auditlog.Leaf(l.Event); err == nil {
		return auditlog.HashLeaf(leaf)
	}
	return asIs
}

// about is what the checks want to know of an event.
type about struct {
	EventID   string
	Timestamp time.Time
}

func (l *line) about() about {
	var a about
	var values [2][]byte
	if _, err := members(l.Event, []string{"eventId", "timestamp"}, values[:], false); err != nil {
		return a // an event that says neither has no id to report, and its hash tells the rest
	}
	_ = json.Unmarshal(values[0], &a.EventID)
	_ = json.Unmarshal(values[1], &a.Timestamp)
	return a
}

// day is the UTC day of the event, empty if it does not say.
func (a about) day() string {
	if a.Timestamp.IsZero() {
		return ""
	}
	return a.Timestamp.UTC().Format(time.DateOnly)
}

// Resume reads an export that was written so far, and says how many bytes of it are whole lines and with
// which leaf to go on: where its last line says so, else behind its last leaf.
func Resume(r io.Reader) (whole, cursor int64, err error) {
	reader := bufio.NewReaderSize(r, 1<<16)
	var at place
	for {
		raw, err := reader.ReadBytes('\n')
		if errors.Is(err, io.EOF) { // what follows the last newline was cut off
			return whole, at.next, nil
		}
		if err != nil {
			return 0, 0, err
		}
		l, err := parse(raw)
		if err != nil {
			return 0, 0, err
		}
		whole += int64(len(raw))
		if l != nil {
			at.pass(l)
		}
	}
}
