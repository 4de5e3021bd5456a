package auditlog

import (
	"encoding/base64"
	"encoding/json"
	"strconv"

	"golang.org/x/mod/sumdb/tlog"
)

// Hashes in JSON are base64 text (standard alphabet, padded), which is what tlog.Hash makes of itself.

// Proof shows that an event is in the log: the answer of GET /audit/{eventId}/proof. Hashes lead from
// LeafHash at LeafIndex to the root of Checkpoint, which has TreeSize leaves (RFC 6962 §2.1.1).
type Proof struct {
	LeafIndex  int64       `json:"leafIndex"`
	TreeSize   int64       `json:"treeSize"`
	Hashes     []tlog.Hash `json:"hashes"` // never nil on the wire
	Checkpoint string      `json:"checkpoint"`
	Leaf       string      `json:"leaf"`
	LeafHash   tlog.Hash   `json:"leafHash"`
}

// Consistency shows that the tree of From leaves is the beginning of that of To leaves: the answer of
// GET /audit/consistency (RFC 6962 §2.1.2).
type Consistency struct {
	From   int64       `json:"from"`
	To     int64       `json:"to"`
	Hashes []tlog.Hash `json:"hashes"` // never nil on the wire
}

// ExportHeader is the first line of an export. Before is the frontier of the leaves that come before
// First, so that whoever holds the lines from First on can compute the root. A filtered export leaves
// leaves out, and says so.
type ExportHeader struct {
	Checkpoint string      `json:"checkpoint"`
	TreeSize   int64       `json:"treeSize"`
	First      int64       `json:"first"`
	Before     []tlog.Hash `json:"before"` // never nil on the wire
	Filtered   bool        `json:"filtered"`
}

// ExportLine is one leaf of an export. Event is null where the event itself is gone: its day has been
// dropped, or somebody took it away.
type ExportLine struct {
	LeafIndex int64           `json:"leafIndex"`
	LeafHash  tlog.Hash       `json:"leafHash"`
	Event     json.RawMessage `json:"event"`
	Proof     []tlog.Hash     `json:"proof,omitempty"`
}

// ExportTrailer is the last line of an export. Cursor is the leaf to go on with.
type ExportTrailer struct {
	Cursor   string       `json:"cursor"`
	Complete bool         `json:"complete"`
	Dropped  []DroppedDay `json:"dropped"` // never nil on the wire
}

// DroppedDay is a day (YYYY-MM-DD) whose events retention has removed: how many, and between which leaves.
// Leaves of other days may lie between those.
type DroppedDay struct {
	Day       string `json:"day"`
	Events    int64  `json:"events"`
	FirstLeaf int64  `json:"firstLeaf"`
	LastLeaf  int64  `json:"lastLeaf"`
}

// AppendExportLine adds one leaf's line, newline included, to an export. The leaf stands in it byte for
// byte, which json.Marshal does not promise; nil writes null. proof is left out if it is nil.
func AppendExportLine(dst []byte, index int64, hash tlog.Hash, leaf []byte, proof []tlog.Hash) []byte {
	dst = strconv.AppendInt(append(dst, `{"leafIndex":`...), index, 10)
	dst = appendHash(append(dst, `,"leafHash":`...), hash)
	dst = append(dst, `,"event":`...)
	if leaf == nil {
		dst = append(dst, "null"...)
	} else {
		dst = append(dst, leaf...)
	}
	if proof != nil {
		dst = append(dst, `,"proof":[`...)
		for i, hash := range proof {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendHash(dst, hash)
		}
		dst = append(dst, ']')
	}
	return append(dst, "}\n"...)
}

func appendHash(dst []byte, hash tlog.Hash) []byte {
	dst = base64.StdEncoding.AppendEncode(append(dst, '"'), hash[:])
	return append(dst, '"')
}
