// Package witness is a witness of transparency logs (C2SP tlog-witness): it signs a log's checkpoint if the
// log's key signed it and a proof shows that it goes on from the one that the witness signed last. So a log
// that wants to show two people different pasts has to find a witness that forgets. This one does not: what it
// signed is on the disk before anyone sees the signature. It must not judge what is in a log, and needs to
// trust nothing about who asks.
package witness

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sentryagent/agentidp/cmd/agentidp/internal/atomicfile"
	"github.com/sentryagent/agentidp/pkg/auditlog"
)

// maxRequest bounds a request: 63 hashes and a checkpoint with the signatures of many.
const maxRequest = 64 << 10

// stateMode is that of what a witness keeps: checkpoints are public.
const stateMode = 0o644

// Witness signs for the logs that it was told about.
type Witness struct {
	cosigner *auditlog.Cosigner
	logs     map[string]*seen // by origin
	log      *slog.Logger
	lock     *os.File
}

// seen is what the witness signed last of one log.
type seen struct {
	mu       sync.Mutex // one checkpoint at a time, so that none is signed beside another
	verifier note.Verifier
	path     string
	last     auditlog.Checkpoint // of no leaves before the first
}

// ErrNoState means that there is nothing to tell what was signed of a log: it was never begun, or it is lost.
var ErrNoState = errors.New("no state")

// Init begins in dir what a witness keeps of each of these logs. What was begun before stays as it is: a log's
// state is begun once, before the witness signs for it the first time, or it would sign for a second past.
func Init(dir string, logs []note.Verifier) error {
	if err := unalike(logs); err != nil {
		return err
	}
	if err := atomicfile.MakeDir(dir); err != nil {
		return err
	}
	lock, err := acquire(dir)
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	for _, verifier := range logs {
		_, err := load(dir, verifier)
		if errors.Is(err, ErrNoState) {
			nothing := auditlog.Checkpoint{Origin: verifier.Name(), Root: new(auditlog.Frontier).Root()}
			err = atomicfile.Write(statePath(dir, verifier), []byte(nothing.String()+"\n"), stateMode)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// New makes a witness that signs with cosigner for the logs with these keys and keeps what it signed in dir,
// where Init began it for each of them; ErrNoState where it did not. The directory belongs to one witness at a
// time; Close gives it back.
func New(dir string, cosigner *auditlog.Cosigner, logs []note.Verifier, log *slog.Logger) (*Witness, error) {
	if err := unalike(logs); err != nil {
		return nil, err
	}
	lock, err := acquire(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w in %s", ErrNoState, dir)
	}
	if err != nil {
		return nil, err
	}
	w := &Witness{cosigner: cosigner, logs: map[string]*seen{}, log: log, lock: lock}
	for _, verifier := range logs {
		s, err := load(dir, verifier)
		if err != nil {
			_ = w.Close()
			return nil, err
		}
		w.logs[verifier.Name()] = s
	}
	return w, nil
}

// unalike refuses two keys for one origin: each would be told that the other's past is the log's.
func unalike(logs []note.Verifier) error {
	names := map[string]bool{}
	for _, verifier := range logs {
		if names[verifier.Name()] {
			return fmt.Errorf("two keys for the log %s", verifier.Name())
		}
		names[verifier.Name()] = true
	}
	return nil
}

// acquire takes a directory for this witness alone.
func acquire(dir string) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // the caller's own choice
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("another witness runs on %s: %w", dir, err)
	}
	return lock, nil
}

// Close gives the directory back.
func (w *Witness) Close() error { return w.lock.Close() }

func statePath(dir string, verifier note.Verifier) string {
	sum := sha256.Sum256([]byte(verifier.Name()))
	return filepath.Join(dir, hex.EncodeToString(sum[:8])+".checkpoint")
}

func load(dir string, verifier note.Verifier) (*seen, error) {
	s := &seen{verifier: verifier, path: statePath(dir, verifier)}
	signed, err := os.ReadFile(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w of %s in %s", ErrNoState, verifier.Name(), dir)
	}
	if err != nil {
		return nil, err
	}
	// Our own file: the log may have got a new key since, so its signature is not asked about again.
	text, _, _ := strings.Cut(string(signed), "\n\n")
	if s.last, err = auditlog.ParseCheckpoint(text + "\n"); err != nil || s.last.Origin != verifier.Name() {
		return nil, fmt.Errorf("%s does not hold a checkpoint of %s", s.path, verifier.Name())
	}
	return s, nil
}

// ServeHTTP answers POST …/add-checkpoint.
func (w *Witness) ServeHTTP(out http.ResponseWriter, r *http.Request) {
	if !strings.HasSuffix(r.URL.Path, auditlog.AddCheckpointPath) {
		http.NotFound(out, r)
		return
	}
	if r.Method != http.MethodPost {
		out.Header().Set("Allow", http.MethodPost)
		http.Error(out, "only POST", http.StatusMethodNotAllowed)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(out, r.Body, maxRequest))
	if err != nil {
		http.Error(out, "the request could not be read", http.StatusBadRequest)
		return
	}
	line, refusal := w.add(body)
	if refusal == nil {
		_, _ = out.Write(line)
		return
	}
	if refusal.size {
		out.Header().Set("Content-Type", auditlog.SizeType)
		out.WriteHeader(refusal.status)
		_, _ = fmt.Fprintln(out, refusal.text)
		return
	}
	w.log.WarnContext(r.Context(), "checkpoint refused", slog.Int("status", refusal.status), slog.String("reason", refusal.text))
	http.Error(out, refusal.text, refusal.status)
}

// refusal is an answer other than a signature.
type refusal struct {
	status int
	text   string
	size   bool // text is the size that was signed last
}

func refuse(status int, text string) *refusal { return &refusal{status: status, text: text} }

// add judges a request in the order of the standard.
func (w *Witness) add(body []byte) ([]byte, *refusal) {
	request, err := auditlog.ParseAddCheckpoint(body)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, err.Error())
	}
	origin, _, _ := strings.Cut(string(request.Checkpoint), "\n")
	s, known := w.logs[origin]
	if !known {
		return nil, refuse(http.StatusNotFound, "not a log of this witness")
	}
	next, opened, err := auditlog.Open(request.Checkpoint, s.verifier)
	switch {
	case errors.Is(err, auditlog.ErrNotCheckpoint):
		return nil, refuse(http.StatusBadRequest, err.Error())
	case err != nil:
		return nil, refuse(http.StatusForbidden, "not signed by the log")
	case request.Old > next.Size:
		return nil, refuse(http.StatusBadRequest, "the old size is past the checkpoint's")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if refused := s.judge(request, next); refused != nil {
		return nil, refused
	}
	line, err := auditlog.SignatureLine(opened.Text, w.cosigner)
	if err == nil {
		err = atomicfile.Write(s.path, append(append([]byte{}, request.Checkpoint...), line...), stateMode)
	}
	if err != nil {
		w.log.Error("a checkpoint cannot be kept, and is not signed", slog.Any("error", err))
		return nil, refuse(http.StatusInternalServerError, "the witness cannot keep what it would sign")
	}
	if next.Size > s.last.Size {
		w.log.Info("checkpoint signed", slog.String("log", origin), slog.Int64("size", next.Size))
	}
	s.last = next
	return line, nil
}

// judge tells whether next goes on from the last checkpoint.
func (s *seen) judge(request auditlog.AddCheckpoint, next auditlog.Checkpoint) *refusal {
	switch {
	case request.Old != s.last.Size:
		return &refusal{status: http.StatusConflict, text: fmt.Sprint(s.last.Size), size: true}
	case next.Size == 0 && next.Root != new(auditlog.Frontier).Root():
		return refuse(http.StatusUnprocessableEntity, "not the root of a tree without leaves")
	case next.Size == s.last.Size && next.Root != s.last.Root:
		return refuse(http.StatusConflict, "another root was signed for this size: the log has forked")
	case request.Old == 0 || next.Size == request.Old:
		if len(request.Proof) > 0 {
			return refuse(http.StatusUnprocessableEntity, "a proof where there is nothing to prove")
		}
	case tlog.CheckTree(request.Proof, next.Size, next.Root, s.last.Size, s.last.Root) != nil:
		return refuse(http.StatusUnprocessableEntity, "the proof does not lead from the last checkpoint to this one")
	}
	return nil
}
