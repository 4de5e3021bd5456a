package auditor

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sentryagent/agentidp/cmd/agentidp/internal/atomicfile"
	"github.com/sentryagent/agentidp/pkg/auditlog"
)

// LoadCheckpoint reads the checkpoint that was kept in a file: a signed note, as the log gave it. ok is
// false where there is no file yet. One that the log did not sign is an error, not a beginning.
func LoadCheckpoint(path string, log note.Verifier) (c auditlog.Checkpoint, ok bool, err error) {
	signed, err := os.ReadFile(path) //nolint:gosec // the caller's own choice
	if errors.Is(err, fs.ErrNotExist) {
		return auditlog.Checkpoint{}, false, nil
	}
	if err != nil {
		return auditlog.Checkpoint{}, false, err
	}
	if c, _, err = auditlog.Open(signed, log); err != nil {
		return auditlog.Checkpoint{}, false, fmt.Errorf("the checkpoint kept in %s: %w", path, err)
	}
	return c, true, nil
}

// SaveCheckpoint keeps a signed checkpoint. The file is whole at any moment, and the new one is on the disk
// when it returns.
func SaveCheckpoint(path string, signed []byte) error {
	return atomicfile.Write(path, signed, 0o644) // checkpoints are public
}

// Hashes are the leaf hashes that were read before, kept in a file of 32 bytes for each: with them a changed
// hash is found at its leaf, where a root alone only says that there is one. Leaves are asked for in order.
type Hashes struct {
	file  *os.File
	old   *bufio.Reader
	next  int64 // the leaf that old gives now
	known int64
	fresh []tlog.Hash
}

// OpenHashes opens a file of leaf hashes; one that is not there yet is empty.
func OpenHashes(path string) (*Hashes, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644) //nolint:gosec // hashes are public
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return &Hashes{file: file, old: bufio.NewReaderSize(file, 1<<16), known: info.Size() / tlog.HashSize}, nil
}

// Next gives the hash that was known of a leaf, and takes its present one if none was.
func (h *Hashes) Next(index int64, present tlog.Hash) (before tlog.Hash, seen bool, err error) {
	switch {
	case index >= h.known:
		if index == h.known+int64(len(h.fresh)) { // leaves behind a gap are not kept
			h.fresh = append(h.fresh, present)
		}
		return tlog.Hash{}, false, nil
	case index < h.next:
		return tlog.Hash{}, false, nil
	}
	if _, err := h.old.Discard(int((index - h.next) * tlog.HashSize)); err != nil {
		return tlog.Hash{}, false, err
	}
	if _, err := io.ReadFull(h.old, before[:]); err != nil {
		return tlog.Hash{}, false, err
	}
	h.next = index + 1
	return before, true, nil
}

// Save adds the new hashes to the file, of those below size.
func (h *Hashes) Save(size int64) error {
	fresh := h.fresh[:max(0, min(int64(len(h.fresh)), size-h.known))]
	if _, err := h.file.Seek(h.known*tlog.HashSize, io.SeekStart); err != nil {
		return err
	}
	w := bufio.NewWriter(h.file)
	for _, hash := range fresh {
		if _, err := w.Write(hash[:]); err != nil {
			return err
		}
	}
	return errors.Join(w.Flush(), h.file.Sync())
}

// Close lets go of the file.
func (h *Hashes) Close() error { return h.file.Close() }
