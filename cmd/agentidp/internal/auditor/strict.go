package auditor

import (
	"bytes"
	"encoding/json"
	"errors"

	"github.com/sentryagent/agentidp/pkg/auditlog"
)

// The lines of an export and proofs are read strictly: what another program could understand in another way, as it
// takes the last of two members of one name or minds the case of a name, must not be checked in one way and
// shown in the other.

var errAmbiguous = errors.New("not an object of known members, each once")

// The members of the three forms of a line, in the order of the bits below.
func lineMembers() [lineMemberCount]string {
	return [...]string{
		"checkpoint", "treeSize", "first", "before", "filtered",
		"leafIndex", "leafHash", "event", "proof",
		"cursor", "complete", "dropped",
	}
}

const lineMemberCount = 12

const (
	formHeader  = 0b000_0000_11111
	formLeaf    = 0b000_0111_00000
	formProven  = 0b000_1111_00000
	formTrailer = 0b111_0000_00000
)

// parse reads a line; nil without an error is an empty one. The event in it is a part of raw.
func parse(raw []byte) (*line, error) {
	if len(bytes.TrimSpace(raw)) == 0 {
		return nil, nil
	}
	var values [lineMemberCount][]byte
	names := lineMembers()
	form, err := members(raw, names[:], values[:], true)
	if err != nil || form != formHeader && form != formLeaf && form != formProven && form != formTrailer {
		return nil, errNotExport
	}
	var l line
	var dropped []json.RawMessage
	into := [lineMemberCount]any{
		&l.Checkpoint, &l.TreeSize, &l.First, &l.Before, &l.Filtered,
		&l.LeafIndex, &l.LeafHash, nil, &l.Proof,
		&l.Cursor, &l.Complete, &dropped,
	}
	for i, value := range values {
		switch {
		case value == nil:
		case into[i] == nil:
			l.Event = value
		case string(value) == "null" || json.Unmarshal(value, into[i]) != nil:
			return nil, errNotExport
		}
	}
	for _, one := range dropped {
		day, err := parseDay(one)
		if err != nil {
			return nil, errNotExport
		}
		l.Dropped = append(l.Dropped, day)
	}
	return &l, nil
}

func parseDay(raw []byte) (day auditlog.DroppedDay, err error) {
	names := []string{"day", "events", "firstLeaf", "lastLeaf"}
	err = parseAll(raw, names, &day.Day, &day.Events, &day.FirstLeaf, &day.LastLeaf)
	return day, err
}

// ParseProof reads the answer of GET /audit/{eventId}/proof.
func ParseProof(raw []byte) (p auditlog.Proof, err error) {
	names := []string{"leafIndex", "treeSize", "hashes", "checkpoint", "leaf", "leafHash"}
	err = parseAll(raw, names, &p.LeafIndex, &p.TreeSize, &p.Hashes, &p.Checkpoint, &p.Leaf, &p.LeafHash)
	return p, err
}

func parseConsistency(raw []byte) (c auditlog.Consistency, err error) {
	err = parseAll(raw, []string{"from", "to", "hashes"}, &c.From, &c.To, &c.Hashes)
	return c, err
}

// parseAll reads an object that has to have each of the names and no other; the member of names[i] goes into into[i].
func parseAll(raw []byte, names []string, into ...any) error {
	values := make([][]byte, len(names))
	if form, err := members(raw, names, values, true); err != nil || form != 1<<len(names)-1 {
		return errAmbiguous
	}
	for i, value := range values {
		if string(value) == "null" || json.Unmarshal(value, into[i]) != nil {
			return errAmbiguous
		}
	}
	return nil
}

// members finds the members of a JSON object that have one of the names, exactly as they are written: values[i] is
// that of names[i], and bit i of found tells that it is there. A name that is there twice is an error, and
// one that is not known if all have to be.
func members(raw []byte, names []string, values [][]byte, all bool) (found uint, err error) {
	if !json.Valid(raw) {
		return 0, errAmbiguous
	}
	rest := bytes.TrimSpace(raw)
	if rest[0] != '{' {
		return 0, errAmbiguous
	}
	rest = bytes.TrimLeft(rest[1:], jsonSpace)
	for rest[0] != '}' {
		end := valueEnd(rest)
		name := rest[1 : end-1]
		rest = bytes.TrimLeft(rest[end:], jsonSpace)
		rest = bytes.TrimLeft(rest[1:], jsonSpace) // behind the colon
		end = valueEnd(rest)
		i := indexOf(names, name)
		switch {
		case i < 0 && all, i >= 0 && values[i] != nil:
			return 0, errAmbiguous
		case i >= 0:
			values[i] = bytes.TrimRight(rest[:end:end], jsonSpace)
			found |= 1 << i
		}
		rest = bytes.TrimLeft(rest[end:], jsonSpace)
		if rest[0] == ',' {
			rest = bytes.TrimLeft(rest[1:], jsonSpace)
		}
	}
	return found, nil
}

const jsonSpace = " \t\r\n"

func indexOf(names []string, name []byte) int {
	for i := range names {
		if names[i] == string(name) {
			return i
		}
	}
	return -1
}

// valueEnd is where the value that valid JSON begins with ends: a string, or anything up to the comma or bracket
// that does not belong to it.
func valueEnd(text []byte) int {
	depth := 0
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '"':
			for i++; text[i] != '"'; i++ {
				if text[i] == '\\' {
					i++
				}
			}
			if depth == 0 {
				return i + 1
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return i
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case ',':
			if depth == 0 {
				return i
			}
		}
	}
	return len(text)
}
