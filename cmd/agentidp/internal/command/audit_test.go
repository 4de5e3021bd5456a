package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sentryagent/agentidp/pkg/auditlog"
)

// keyPair is what `audit keygen` prints.
func keyPair(t *testing.T, args ...string) (secret, public string) {
	t.Helper()
	out, err := run(t, nil, append([]string{"audit", "keygen", "--origin", "example.com/audit"}, args...)...)
	require.NoError(t, err)
	_, err = fmt.Sscanf(out, "secret %s\npublic %s\n", &secret, &public)
	require.NoError(t, err)
	return secret, public
}

// smallLog is a log of events {"eventId":…,"n":…}: its newest checkpoint, and an export from a leaf on.
type smallLog struct {
	signer note.Signer
	events [][]byte
}

func newSmallLog(t *testing.T, secret string, events int) *smallLog {
	t.Helper()
	signer, err := note.NewSigner(secret)
	require.NoError(t, err)
	l := &smallLog{signer: signer}
	for n := range events {
		l.events = append(l.events, fmt.Appendf(nil, `{"eventId":"0191f3c2-7b1a-7c3e-9a51-%012d","n":%d}`, n, n))
	}
	return l
}

func (l *smallLog) checkpoint(t *testing.T) string {
	t.Helper()
	var tree auditlog.Frontier
	for _, event := range l.events {
		tree.Add(auditlog.HashLeaf(event))
	}
	signed, err := auditlog.Sign(auditlog.Checkpoint{Origin: l.signer.Name(), Size: tree.Size(), Root: tree.Root()}, l.signer)
	require.NoError(t, err)
	return string(signed)
}

func (l *smallLog) export(t *testing.T, first int64) string {
	t.Helper()
	var tree auditlog.Frontier
	for _, event := range l.events[:first] {
		tree.Add(auditlog.HashLeaf(event))
	}
	size := int64(len(l.events))
	head, err := json.Marshal(auditlog.ExportHeader{Checkpoint: l.checkpoint(t), TreeSize: size, First: first, Before: tree.Hashes()})
	require.NoError(t, err)
	out := append(head, '\n')
	for i := first; i < size; i++ {
		out = auditlog.AppendExportLine(out, i, auditlog.HashLeaf(l.events[i]), l.events[i], nil)
	}
	tail, err := json.Marshal(auditlog.ExportTrailer{Cursor: strconv.FormatInt(size, 10), Complete: true, Dropped: []auditlog.DroppedDay{}})
	require.NoError(t, err)
	return string(append(out, tail...)) + "\n"
}

func (l *smallLog) serve(t *testing.T) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/audit/checkpoint", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, l.checkpoint(t))
	})
	mux.HandleFunc("GET /api/v1/audit/export", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer the-token" {
			http.Error(w, `{"code":"UNAUTHORIZED"}`, http.StatusUnauthorized)
			return
		}
		first, err := strconv.ParseInt(r.URL.Query().Get("cursor"), 10, 64)
		require.NoError(t, err)
		_, _ = io.WriteString(w, l.export(t, first))
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL
}

func write(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

func exitCodeOf(t *testing.T, err error) int {
	t.Helper()
	var known *exitError
	require.ErrorAs(t, err, &known)
	require.NotEmpty(t, known.Error())
	return known.ExitCode()
}

func TestKeysAreMadeForLogsAndWitnesses(t *testing.T) {
	t.Parallel()
	secret, public := keyPair(t)
	derived, err := auditlog.PublicKey(secret)
	require.NoError(t, err)
	require.Equal(t, public, derived)

	_, public = keyPair(t, "--witness")
	_, err = auditlog.NewCosignatureVerifier(public)
	require.NoError(t, err)
	_, err = note.NewVerifier(public)
	require.Error(t, err, "no key of a log")

	path := filepath.Join(t.TempDir(), "key")
	out, err := run(t, nil, "audit", "keygen", "--origin", "example.com/audit", "--out", path)
	require.NoError(t, err)
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	derived, err = auditlog.PublicKey(strings.TrimSpace(string(content)))
	require.NoError(t, err)
	require.Equal(t, derived+"\n", out)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	_, err = run(t, nil, "audit", "keygen", "--origin", "example.com/audit", "--out", path)
	require.Error(t, err, "a key is not overwritten")
	_, err = run(t, nil, "audit", "keygen", "--origin", "two words")
	require.ErrorContains(t, err, "--origin")
}

func TestVerifyExitsByWhatItFound(t *testing.T) {
	t.Parallel()
	secret, public := keyPair(t)
	export := newSmallLog(t, secret, 5).export(t, 0)
	verify := func(content string, args ...string) (string, error) {
		return run(t, nil, append([]string{"audit", "verify", "--key", public, "--file", write(t, content)}, args...)...)
	}

	out, err := verify(export)
	require.NoError(t, err)
	require.Contains(t, out, "OK: everything")
	require.Contains(t, out, "read        5 leaves, 5 events")

	out, err = verify(strings.Replace(export, `"n":3`, `"n":4`, 1))
	require.Equal(t, exitTampered, exitCodeOf(t, err))
	require.Contains(t, out, "leaf 3: event 0191f3c2-7b1a-7c3e-9a51-000000000003: its hash is")

	out, err = verify(export[:strings.LastIndex(export, `{"leafIndex":4`)])
	require.Equal(t, exitUnproven, exitCodeOf(t, err))
	require.Contains(t, out, "NOT PROVEN")

	_, err = verify("nonsense\n")
	require.ErrorContains(t, err, "not a line of an export")
	require.False(t, errors.As(err, new(*exitError)))

	out, err = verify(export, "--json")
	require.NoError(t, err)
	var report struct{ Events, TreeSize int }
	require.NoError(t, json.Unmarshal([]byte(out), &report))
	require.Equal(t, 5, report.Events)

	_, other := keyPair(t)
	_, err = run(t, nil, "audit", "verify", "--key", write(t, other), "--file", write(t, export))
	require.Equal(t, exitTampered, exitCodeOf(t, err), "signed by another key, which stood in a file")
}

func TestVerifyRemembers(t *testing.T) {
	t.Parallel()
	secret, public := keyPair(t)
	l := newSmallLog(t, secret, 5)
	dir := t.TempDir()
	url := l.serve(t)
	env := map[string]string{"AGENTIDP_TOKEN": "the-token"}
	verify := func(args ...string) (string, error) {
		return run(t, env, append([]string{"audit", "verify", "--key", public, "--state", filepath.Join(dir, "state")}, args...)...)
	}
	_, err := verify("--url", url, "--hashes", filepath.Join(dir, "hashes"))
	require.NoError(t, err)
	kept, err := os.ReadFile(filepath.Join(dir, "state"))
	require.NoError(t, err)
	require.Equal(t, l.checkpoint(t), string(kept))
	hashes, err := os.ReadFile(filepath.Join(dir, "hashes"))
	require.NoError(t, err)
	require.Len(t, hashes, 5*tlog.HashSize)

	out, err := verify("--url", url, "--new")
	require.NoError(t, err)
	require.Contains(t, out, "read        0 leaves")

	l.events = l.events[:4]
	out, err = verify("--url", url, "--head-only")
	require.Equal(t, exitTampered, exitCodeOf(t, err))
	require.Contains(t, out, "ROLLBACK")
	out, err = verify("--file", write(t, l.export(t, 0)))
	require.Equal(t, exitUnproven, exitCodeOf(t, err), "a file does not say that it is the newest")
	require.Contains(t, out, "older than the one of 5 kept from before")
	require.NotContains(t, out, "ROLLBACK")
	now, err := os.ReadFile(filepath.Join(dir, "state"))
	require.NoError(t, err)
	require.Equal(t, kept, now)
}

func TestHashesAloneRememberHowLongTheLogWas(t *testing.T) {
	t.Parallel()
	secret, public := keyPair(t)
	l := newSmallLog(t, secret, 5)
	dir := t.TempDir()
	url := l.serve(t)
	verify := func(args ...string) (string, error) {
		all := append([]string{"audit", "verify", "--key", public, "--hashes", filepath.Join(dir, "hashes")}, args...)
		return run(t, map[string]string{"AGENTIDP_TOKEN": "the-token"}, all...)
	}
	_, err := verify("--url", url)
	require.NoError(t, err)

	l.events = l.events[:4]
	out, err := verify("--url", url)
	require.Equal(t, exitTampered, exitCodeOf(t, err))
	require.Contains(t, out, "ROLLBACK the log has 4 leaves and had 5")
	state := filepath.Join(dir, "state")
	out, err = verify("--file", write(t, l.export(t, 0)), "--state", state)
	require.Equal(t, exitUnproven, exitCodeOf(t, err))
	require.Contains(t, out, "older than the hashes of 5 kept from before")
	require.NoFileExists(t, state)
}

func TestTheTokenGoesNowhereButToTheProvider(t *testing.T) {
	t.Parallel()
	var strayed atomic.Int32
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { strayed.Add(1) }))
	t.Cleanup(elsewhere.Close)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v1/token", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"access_token":"t","token_type":"Bearer","expires_in":3600}`)
	})
	mux.Handle("/", http.RedirectHandler(elsewhere.URL, http.StatusFound))
	provider := httptest.NewServer(mux)
	t.Cleanup(provider.Close)
	for _, env := range []map[string]string{
		{"AGENTIDP_TOKEN": "t"}, {"AGENTIDP_CLIENT_ID": "id", "AGENTIDP_CLIENT_SECRET": "secret"},
	} {
		_, err := run(t, env, "audit", "export", "--url", provider.URL)
		require.ErrorContains(t, err, "GET /audit/export: 302")
	}
	require.Zero(t, strayed.Load())
}

func TestVerifyReadsOneProof(t *testing.T) {
	t.Parallel()
	secret, public := keyPair(t)
	l := newSmallLog(t, secret, 1)
	proof, err := json.Marshal(auditlog.Proof{
		TreeSize: 1, Hashes: []tlog.Hash{}, Checkpoint: l.checkpoint(t), Leaf: string(l.events[0]), LeafHash: auditlog.HashLeaf(l.events[0]),
	})
	require.NoError(t, err)
	_, err = run(t, nil, "audit", "verify", "--key", public, "--proof", write(t, string(proof)))
	require.NoError(t, err)
	_, err = run(t, nil, "audit", "verify", "--key", public, "--proof", write(t, string(proof)), "--event", uuid.NewString())
	require.Equal(t, exitTampered, exitCodeOf(t, err))
	_, err = run(t, nil, "audit", "verify", "--key", public, "--proof", write(t, string(proof)), "--event", "0191F3C2-7B1A-7C3E-9A51-000000000000")
	require.NoError(t, err, "in capitals it is the same id")
	_, err = run(t, nil, "audit", "verify", "--key", public, "--proof", write(t, "nonsense"))
	require.ErrorContains(t, err, "not a proof")
	forged := strings.Replace(string(proof), `"leaf":`, `"leaf":"{}","Leaf":`, 1)
	_, err = run(t, nil, "audit", "verify", "--key", public, "--proof", write(t, forged))
	require.ErrorContains(t, err, "not a proof", "other programs show the first of the two")

	state := write(t, newSmallLog(t, secret, 5).checkpoint(t))
	kept, err := os.ReadFile(state)
	require.NoError(t, err)
	out, err := run(t, nil, "audit", "verify", "--key", public, "--state", state, "--proof", write(t, string(proof)))
	require.Equal(t, exitUnproven, exitCodeOf(t, err), "a proof of before is still good")
	require.Contains(t, out, "older than the one of 5 kept from before")
	require.Contains(t, out, "1 events")
	now, err := os.ReadFile(state)
	require.NoError(t, err)
	require.Equal(t, kept, now)
}

func TestVerifyRefusesFlagsThatDoNotGoTogether(t *testing.T) {
	t.Parallel()
	_, public := keyPair(t)
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"nothing to read":               {nil, "at least one"},
		"two things to read":            {[]string{"--file", "x", "--url", "http://x"}, "none of the others"},
		"only the head of a file":       {[]string{"--file", "x", "--head-only"}, "--url"},
		"one event of a file":           {[]string{"--file", "x", "--event", uuid.NewString()}, "--event needs"},
		"an event without an id":        {[]string{"--url", "http://x", "--event", "y"}, "not the id of an event"},
		"an event with the id of none":  {[]string{"--url", "http://x", "--event", uuid.Nil.String()}, "not the id of an event"},
		"new since nobody knows when":   {[]string{"--url", "http://x", "--new"}, "--state"},
		"hashes of a head":              {[]string{"--url", "http://x", "--head-only", "--hashes", "h"}, "--hashes"},
		"a URL that is none":            {[]string{"--url", "x", "--head-only"}, "not the URL"},
		"events without a token":        {[]string{"--url", "http://x"}, "AGENTIDP_TOKEN"},
		"a file that is not there":      {[]string{"--file", "/nowhere/x"}, "no such file"},
		"a witness's key that is none":  {[]string{"--file", "x", "--witness", "a+b+c"}, "--witness"},
		"a state that is no checkpoint": {[]string{"--file", "x", "--state", write(t, "nonsense")}, "kept in"},
	} {
		_, err := run(t, nil, append([]string{"audit", "verify", "--key", public}, test.args...)...)
		require.ErrorContains(t, err, test.want, name)
	}
	_, err := run(t, nil, "audit", "verify", "--key", "a+b+c", "--url", "http://x")
	require.ErrorContains(t, err, "--key")
}

func TestAnExportGoesOnWhereItEnded(t *testing.T) {
	t.Parallel()
	secret, public := keyPair(t)
	l := newSmallLog(t, secret, 5)
	url := l.serve(t)
	env := map[string]string{"AGENTIDP_TOKEN": "the-token"}
	path := filepath.Join(t.TempDir(), "export.ndjson")
	_, err := run(t, env, "audit", "export", "--url", url, "--out", path)
	require.NoError(t, err)
	first, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, l.export(t, 0), string(first))

	require.NoError(t, os.WriteFile(path, first[:bytes.Index(first, []byte(`{"leafIndex":3`))+5], 0o600)) // as a full disk leaves it
	l.events = append(l.events, []byte(`{"n":5}`))
	_, err = run(t, env, "audit", "export", "--url", url, "--out", path)
	require.NoError(t, err)
	out, err := run(t, nil, "audit", "verify", "--key", public, "--file", path)
	require.NoError(t, err, out)
	require.Contains(t, out, "6 events")

	out, err = run(t, env, "audit", "export", "--url", url)
	require.NoError(t, err)
	require.Equal(t, l.export(t, 0), out)
	_, err = run(t, map[string]string{"AGENTIDP_TOKEN": "other"}, "audit", "export", "--url", url)
	require.ErrorContains(t, err, "401")
	_, err = run(t, env, "audit", "export", "--url", url, "--filter", "cursor=4")
	require.ErrorContains(t, err, "--filter")
}

func TestAWitnessRunsUntilItIsStopped(t *testing.T) {
	t.Parallel()
	_, log := keyPair(t)
	secret, public := keyPair(t, "--witness")
	state := filepath.Join(t.TempDir(), "witness")
	given := []string{"audit", "witness", "--listen", "127.0.0.1:0", "--log", log, "--key-file", write(t, secret), "--state", state}
	_, err := run(t, nil, given...)
	require.ErrorContains(t, err, "--init")
	require.NoDirExists(t, state)
	_, err = run(t, nil, append(given, "--init")...)
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	reader, writer := io.Pipe()
	root := New(Console{Out: writer, Err: io.Discard, Environ: func(string) (string, bool) { return "", false }})
	root.SetArgs(given)
	ended := make(chan error, 1)
	go func() { ended <- root.ExecuteContext(ctx) }()
	var key, address string
	_, err = fmt.Fscanf(reader, "witness %s\nlistens on %s\n", &key, &address)
	require.NoError(t, err)
	require.Equal(t, public, key)
	answer, err := http.Post(address+auditlog.AddCheckpointPath, "", strings.NewReader("nonsense"))
	require.NoError(t, err)
	_ = answer.Body.Close()
	require.Equal(t, http.StatusBadRequest, answer.StatusCode)
	stop()
	require.NoError(t, <-ended)

	_, err = run(t, nil, "audit", "witness", "--log", log, "--key-file", write(t, "nonsense"), "--state", t.TempDir())
	require.ErrorContains(t, err, "--key-file")
	_, err = run(t, nil, "audit", "witness", "--log", "a+b+c", "--key-file", write(t, secret), "--state", t.TempDir())
	require.ErrorContains(t, err, "--log")
}

func TestAFileMayBeginWhereTheLastCheckEnded(t *testing.T) {
	t.Parallel()
	secret, public := keyPair(t)
	l := newSmallLog(t, secret, 5)
	state := filepath.Join(t.TempDir(), "state")
	verify := func(export string, args ...string) error {
		_, err := run(t, nil, append([]string{"audit", "verify", "--key", public, "--state", state, "--file", write(t, export)}, args...)...)
		return err
	}
	require.NoError(t, verify(l.export(t, 0)))
	l.events = append(l.events, []byte(`{"n":5}`))
	require.Equal(t, exitUnproven, exitCodeOf(t, verify(l.export(t, 5))), "without --new everything is meant")
	require.NoError(t, verify(l.export(t, 5), "--new"))
	require.Equal(t, exitUnproven, exitCodeOf(t, verify(l.export(t, 6))))
}
