// Package auditlog is the form of the audit trail as a transparency log: what a leaf is, how a tree of
// leaves is hashed (RFC 6962 §2.1), how its head is signed (C2SP signed-note and tlog-checkpoint), how
// its hashes are cut into tiles (C2SP tlog-tiles), how a witness signs what it saw (C2SP
// tlog-cosignature), and the JSON of proofs and exports. The audit service writes these, verifiers and
// witnesses read them. The package keeps nothing, asks no network, and must not know how either side
// stores its part: what it says has to be true for anyone with the bytes alone.
package auditlog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/gowebpki/jcs"
	"golang.org/x/mod/sumdb/tlog"
)

// MaxLeaf is how many bytes a leaf may have: an entry of a tlog-tiles bundle counts them in 16 bits.
const MaxLeaf = 65535

// Reasons for which a payload cannot be a leaf.
var (
	ErrNotObject  = errors.New("not a JSON object in UTF-8")
	ErrAmbiguous  = errors.New("an object names a field twice, or a string holds half of a surrogate pair")
	ErrInexact    = errors.New("a number changes on its way through a double")
	ErrLeafTooBig = fmt.Errorf("more than %d bytes in canonical form", MaxLeaf)
)

// Leaf is the canonical form (RFC 8785) of an event's payload: what is hashed, exported and proven. It
// refuses whatever two readers could understand differently (I-JSON, RFC 7493 §2), as a proof about such
// a leaf would prove nothing. Its errors are those of this package and never repeat the payload. The leaf of
// a payload that is canonical already is the payload itself, not a copy.
func Leaf(payload []byte) ([]byte, error) {
	if Canonical(payload) {
		return payload, nil
	}
	return canonicalize(payload)
}

// canonicalize is Leaf, whatever the form of the payload.
func canonicalize(payload []byte) ([]byte, error) {
	if !utf8.Valid(payload) || !json.Valid(payload) || !bytes.HasPrefix(bytes.TrimLeft(payload, " \t\r\n"), []byte("{")) {
		return nil, ErrNotObject
	}
	if !exactNumbers(payload) {
		return nil, ErrInexact
	}
	leaf, err := jcs.Transform(payload)
	if err != nil {
		return nil, ErrAmbiguous // all else that it refuses was refused above
	}
	if len(leaf) > MaxLeaf {
		return nil, ErrLeafTooBig
	}
	return leaf, nil
}

// HashLeaf is SHA-256(0x00 ‖ leaf), RFC 6962 §2.1.
func HashLeaf(leaf []byte) tlog.Hash { return tlog.RecordHash(leaf) }
