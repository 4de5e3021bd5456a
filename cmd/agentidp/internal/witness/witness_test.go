package witness_test

import (
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sentryagent/agentidp/cmd/agentidp/internal/witness"
	"github.com/sentryagent/agentidp/pkg/auditlog"
	"github.com/sentryagent/agentidp/pkg/testkit"
)

// world is a log, its key, and a witness of it.
type world struct {
	t        *testing.T
	dir      string
	signer   note.Signer
	verifier note.Verifier
	cosigner *auditlog.Cosigner
	testkit.StoredHashes

	server  *httptest.Server
	witness *witness.Witness
}

func newWorld(t *testing.T) *world {
	t.Helper()
	key := testkit.AuditLogKey(t)
	secret, _, err := auditlog.GenerateWitnessKey(rand.Reader, "witness.example")
	require.NoError(t, err)
	cosigner, err := auditlog.NewCosigner(secret, time.Now)
	require.NoError(t, err)
	w := &world{t: t, dir: t.TempDir(), signer: key.Signer, verifier: key.Verifier, cosigner: cosigner}
	for n := range int64(100) {
		hashes, err := tlog.StoredHashes(n, fmt.Append(nil, n), w)
		require.NoError(t, err)
		w.StoredHashes = append(w.StoredHashes, hashes...)
	}
	require.NoError(t, witness.Init(w.dir, []note.Verifier{key.Verifier}))
	w.open()
	return w
}

func (w *world) open() {
	w.t.Helper()
	var err error
	w.witness, err = witness.New(w.dir, w.cosigner, []note.Verifier{w.verifier}, slog.New(slog.DiscardHandler))
	require.NoError(w.t, err)
	w.server = httptest.NewServer(w.witness)
	w.t.Cleanup(w.close)
}

func (w *world) close() {
	w.server.Close()
	_ = w.witness.Close()
}

func (w *world) checkpoint(size int64) auditlog.Checkpoint {
	w.t.Helper()
	root, err := tlog.TreeHash(size, w)
	require.NoError(w.t, err)
	return auditlog.Checkpoint{Origin: w.verifier.Name(), Size: size, Root: root}
}

func (w *world) sign(c auditlog.Checkpoint) []byte {
	w.t.Helper()
	signed, err := auditlog.Sign(c, w.signer)
	require.NoError(w.t, err)
	return signed
}

func (w *world) proof(from, to int64) []tlog.Hash {
	w.t.Helper()
	if from == 0 || from == to {
		return nil
	}
	proof, err := tlog.ProveTree(to, from, w)
	require.NoError(w.t, err)
	return proof
}

func (w *world) post(body []byte) (status int, contentType, text string) {
	w.t.Helper()
	answer, err := http.Post(w.server.URL+"/some/prefix/add-checkpoint", "", strings.NewReader(string(body)))
	require.NoError(w.t, err)
	defer func() { _ = answer.Body.Close() }()
	content, err := io.ReadAll(answer.Body)
	require.NoError(w.t, err)
	return answer.StatusCode, answer.Header.Get("Content-Type"), string(content)
}

// cosigned asks for a signature on the step from one size to the other, and checks it.
func (w *world) cosigned(from, to int64) {
	w.t.Helper()
	signed := w.sign(w.checkpoint(to))
	status, _, line := w.post(auditlog.AddCheckpoint{Old: from, Proof: w.proof(from, to), Checkpoint: signed}.Encode())
	require.Equal(w.t, http.StatusOK, status, line)
	verifier, err := auditlog.NewCosignatureVerifier(w.cosigner.PublicKey())
	require.NoError(w.t, err)
	_, opened, err := auditlog.Open(append(signed, line...), w.verifier, verifier)
	require.NoError(w.t, err)
	require.True(w.t, auditlog.SignedBy(opened, verifier))
}

func TestAWitnessFollowsALogThatGrows(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cosigned(0, 0)
	w.cosigned(0, 5)
	w.cosigned(5, 5) // a fresh time for an old tree
	w.cosigned(5, 8)
	w.cosigned(8, 100)
}

func TestAWitnessRefusesWhatDoesNotGoOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cosigned(0, 50)
	forged := w.checkpoint(50)
	forged.Root[0] ^= 1
	fork := w.checkpoint(60)
	fork.Root[0] ^= 1
	endless := w.checkpoint(60)
	endless.Size = 1<<62 + 1
	other := w.checkpoint(60)
	other.Origin = "example.com/other"
	tests := map[string]struct {
		request auditlog.AddCheckpoint
		status  int
	}{
		"another root for the same size": {auditlog.AddCheckpoint{Old: 50, Checkpoint: w.sign(forged)}, http.StatusConflict},
		"a fork":                         {auditlog.AddCheckpoint{Old: 50, Proof: w.proof(50, 60), Checkpoint: w.sign(fork)}, http.StatusUnprocessableEntity},
		"no proof":                       {auditlog.AddCheckpoint{Old: 50, Checkpoint: w.sign(w.checkpoint(60))}, http.StatusUnprocessableEntity},
		"a proof of nothing":             {auditlog.AddCheckpoint{Old: 50, Proof: w.proof(50, 60), Checkpoint: w.sign(w.checkpoint(50))}, http.StatusUnprocessableEntity},
		"a size beyond all computing":    {auditlog.AddCheckpoint{Old: 50, Proof: w.proof(50, 60), Checkpoint: w.sign(endless)}, http.StatusBadRequest},
		"an old size past the new one":   {auditlog.AddCheckpoint{Old: 50, Checkpoint: w.sign(w.checkpoint(49))}, http.StatusBadRequest},
		"another log":                    {auditlog.AddCheckpoint{Old: 50, Checkpoint: w.sign(other)}, http.StatusNotFound},
		"no signature of the log": {auditlog.AddCheckpoint{Old: 50, Proof: w.proof(50, 60),
			Checkpoint: []byte(strings.Replace(string(w.sign(w.checkpoint(60))), "\n60\n", "\n61\n", 1))}, http.StatusForbidden},
	}
	for name, test := range tests {
		status, contentType, text := w.post(test.request.Encode())
		require.Equal(t, test.status, status, "%s: %s", name, text)
		require.NotEqual(t, auditlog.SizeType, contentType, name)
	}
	for name, body := range map[string]string{"nothing": "", "nonsense": "old x\n\nabc\n", "too much": strings.Repeat("x", 1<<17)} {
		status, _, _ := w.post([]byte(body))
		require.Equal(t, http.StatusBadRequest, status, name)
	}
	for _, old := range []int64{0, 49} {
		status, contentType, text := w.post(auditlog.AddCheckpoint{Old: old, Proof: w.proof(old, 60), Checkpoint: w.sign(w.checkpoint(60))}.Encode())
		require.Equal(t, http.StatusConflict, status)
		require.Equal(t, auditlog.SizeType, contentType)
		require.Equal(t, "50\n", text)
	}
	w.cosigned(50, 60)
}

func TestAWitnessRemembersWhenItStartsAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cosigned(0, 50)
	_, err := witness.New(w.dir, w.cosigner, []note.Verifier{w.verifier}, slog.New(slog.DiscardHandler))
	require.ErrorContains(t, err, "another witness")
	w.close()
	w.open()
	status, _, text := w.post(auditlog.AddCheckpoint{Old: 0, Checkpoint: w.sign(w.checkpoint(40))}.Encode())
	require.Equal(t, http.StatusConflict, status)
	require.Equal(t, "50\n", text)
	w.cosigned(50, 60)
}

func TestAWitnessWithoutAMemoryDoesNotStart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cosigned(0, 50)
	w.close()
	start := func(dir string, logs ...note.Verifier) error {
		started, err := witness.New(dir, w.cosigner, logs, slog.New(slog.DiscardHandler))
		if err == nil {
			require.NoError(t, started.Close())
		}
		return err
	}
	_, public, err := auditlog.GenerateKey(rand.Reader, "example.com/second")
	require.NoError(t, err)
	second, err := note.NewVerifier(public)
	require.NoError(t, err)
	elsewhere := filepath.Join(t.TempDir(), "a", "b")
	require.ErrorIs(t, start(elsewhere, w.verifier), witness.ErrNoState)
	require.NoDirExists(t, elsewhere)
	require.ErrorIs(t, start(t.TempDir(), w.verifier), witness.ErrNoState)
	require.ErrorIs(t, start(w.dir, w.verifier, second), witness.ErrNoState, "of one log it knows nothing")

	require.NoError(t, witness.Init(elsewhere, []note.Verifier{w.verifier}))
	require.NoError(t, start(elsewhere, w.verifier))
	require.NoError(t, witness.Init(w.dir, []note.Verifier{w.verifier, second}))
	require.NoError(t, start(w.dir, w.verifier, second))
	w.open()
	require.ErrorContains(t, witness.Init(w.dir, []note.Verifier{w.verifier}), "another witness")
	w.cosigned(50, 60) // what it knew it still knows
}

func TestALogHasOneKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, public, err := auditlog.GenerateKey(rand.Reader, w.verifier.Name())
	require.NoError(t, err)
	other, err := note.NewVerifier(public)
	require.NoError(t, err)
	w.close()
	both := []note.Verifier{w.verifier, other}
	require.ErrorContains(t, witness.Init(w.dir, both), "two keys")
	_, err = witness.New(w.dir, w.cosigner, both, slog.New(slog.DiscardHandler))
	require.ErrorContains(t, err, "two keys")
}

func TestAWitnessSignsTheFirstRootAndNoOtherBesideIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	forged := w.checkpoint(0)
	forged.Root[0] ^= 1
	status, _, _ := w.post(auditlog.AddCheckpoint{Checkpoint: w.sign(forged)}.Encode())
	require.Equal(t, http.StatusUnprocessableEntity, status)
}

func TestOnlyCheckpointsArePosted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	answer, err := http.Get(w.server.URL + "/add-checkpoint")
	require.NoError(t, err)
	_ = answer.Body.Close()
	require.Equal(t, http.StatusMethodNotAllowed, answer.StatusCode)
	answer, err = http.Get(w.server.URL + "/")
	require.NoError(t, err)
	_ = answer.Body.Close()
	require.Equal(t, http.StatusNotFound, answer.StatusCode)
}
