package auditlog

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Checkpoint says that the log called Origin has Size leaves, and that Root is the hash of the tree
// they make (C2SP tlog-checkpoint). Root of an empty log is SHA-256 of nothing.
type Checkpoint struct {
	Origin string
	Size   int64
	Root   tlog.Hash
}

// String is the text that is signed: three lines, each with its newline.
func (c Checkpoint) String() string {
	return fmt.Sprintf("%s\n%d\n%s\n", c.Origin, c.Size, c.Root)
}

// MaxSize is how many leaves a tree may have: far more than a log will ever see, and few enough that nobody who
// computes with a size that a stranger sent comes near the end of an int64.
const MaxSize = 1 << 60

// Reasons for which something is no checkpoint of a log.
var (
	ErrNotCheckpoint = errors.New("not the text of a checkpoint")
	ErrOtherLog      = errors.New("the checkpoint is not signed by the log's key, or is of another log")
)

// ParseCheckpoint reads the text of a note. A size beyond MaxSize is none. Lines after the third (extensions) are allowed and ignored.
func ParseCheckpoint(text string) (Checkpoint, error) {
	lines := strings.SplitAfter(text, "\n")
	if len(lines) < 4 || lines[len(lines)-1] != "" { // SplitAfter gives a last, empty piece after a final newline
		return Checkpoint{}, ErrNotCheckpoint
	}
	for i, line := range lines[:len(lines)-1] {
		if lines[i] = strings.TrimSuffix(line, "\n"); lines[i] == "" {
			return Checkpoint{}, ErrNotCheckpoint
		}
	}
	size, ok := parseSize(lines[1])
	if !ok {
		return Checkpoint{}, ErrNotCheckpoint
	}
	root, err := tlog.ParseHash(lines[2])
	if err != nil || root.String() != lines[2] {
		return Checkpoint{}, ErrNotCheckpoint
	}
	return Checkpoint{Origin: lines[0], Size: size, Root: root}, nil
}

// parseSize reads a number of leaves in its only decimal form.
func parseSize(text string) (size int64, ok bool) {
	size, err := strconv.ParseInt(text, 10, 64)
	return size, err == nil && size >= 0 && size <= MaxSize && strconv.FormatInt(size, 10) == text
}

// Sign makes the signed note of a checkpoint. The log's own signer comes first.
func Sign(c Checkpoint, signers ...note.Signer) ([]byte, error) {
	return note.Sign(&note.Note{Text: c.String()}, signers...)
}

// Open checks a signed checkpoint. The signature of the log must be there, and its name must be the
// origin; a signature by one of the others need not be there, but must be right if it is. The note that
// comes back lists under Sigs who signed, of those that were asked about.
func Open(signed []byte, log note.Verifier, others ...note.Verifier) (Checkpoint, *note.Note, error) {
	opened, err := note.Open(signed, note.VerifierList(append([]note.Verifier{log}, others...)...))
	if err != nil {
		return Checkpoint{}, nil, fmt.Errorf("%w: %w", ErrOtherLog, err)
	}
	c, err := ParseCheckpoint(opened.Text)
	if err != nil {
		return Checkpoint{}, nil, err
	}
	if c.Origin != log.Name() || !SignedBy(opened, log) {
		return Checkpoint{}, nil, ErrOtherLog
	}
	return c, opened, nil
}

// SignedBy tells whether an opened note carries a checked signature of the verifier's key.
func SignedBy(opened *note.Note, by note.Verifier) bool {
	for _, sig := range opened.Sigs {
		if sig.Name == by.Name() && sig.Hash == by.KeyHash() {
			return true
		}
	}
	return false
}
