package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sentryagent/agentidp/pkg/auditlog"
	"github.com/sentryagent/agentidp/pkg/testkit"
)

const (
	auditDoc     = "../../docs/audit.md"
	auditExample = "../../docs/audit-example"
	updateAudit  = "UPDATE_DOCS=1 go test -run TestTheAudit ./cmd/agentidp/"

	// asProgram makes this test binary be agentidp, for the scripts of the document.
	asProgram = "AGENTIDP_TEST_AS_PROGRAM"
)

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// example is the log of the document.
type example struct {
	public string
	signer note.Signer
	testkit.StoredHashes

	leaves [][]byte
}

// newExample makes the same log each time. Its key is everybody's.
func newExample(t *testing.T) *example {
	t.Helper()
	const origin = "example.com/audit"
	seed := bytes.Repeat([]byte{7}, ed25519.SeedSize)
	key := ed25519.NewKeyFromSeed(seed)
	public, err := note.NewEd25519VerifierKey(origin, key.Public().(ed25519.PublicKey))
	require.NoError(t, err)
	hash := strings.Split(public, "+")[1]
	signer, err := note.NewSigner(fmt.Sprintf("PRIVATE+KEY+%s+%s+%s", origin, hash, base64.StdEncoding.EncodeToString(append([]byte{1}, seed...))))
	require.NoError(t, err)
	e := &example{public: public, signer: signer}
	const agent, operator = "0199aa10-5b1f-7c3e-9a51-0123456789ab", "0199aa0f-0000-7d20-8c11-00000000000a"
	e.log(t, 0, "registry", "agent.created", "success", agent, `"`+operator+`"`, `{"agentType":"screener","owner":"talent"}`)
	e.log(t, 1, "credentials", "credential.generated", "success", agent, `"`+operator+`"`, `{"credentialId":"0199aa10-6000-7aaa-8bbb-000000000001"}`)
	e.log(t, 2, "token", "auth.failed", "failure", agent, "null", `{"reason":"invalid_secret"}`)
	e.log(t, 3, "token", "token.issued", "success", agent, `"`+agent+`"`, `{"scope":"agents:read"}`)
	e.log(t, 4, "registry", "agent.suspended", "success", agent, `"`+operator+`"`, `{"changed":["status"]}`)
	return e
}

func (e *example) log(t *testing.T, n int64, service, action, outcome, agent, actor, metadata string) {
	t.Helper()
	at := time.Date(2026, 11, 22, 8, 0, int(n)*7, 125_000_000, time.UTC)
	leaf, err := auditlog.Leaf(fmt.Appendf(nil, `{"schemaVersion":1,"eventId":"0199aa10-%04x-7%03x-8%03x-9d1c5e0b7a%02x","timestamp":%q,"agentId":%q,"actorId":%s,`+
		`"action":%q,"outcome":%q,"ipAddress":"192.0.2.17","userAgent":"agent/1.4","service":%q,"requestId":"r-%d","metadata":%s}`,
		0x7000+n*0x101, 0x3a1+n*0x7b, 0x2c4+n*0x35, 0x41+n*0x13, at.Format(time.RFC3339Nano), agent, actor, action, outcome, service, n+1, metadata))
	require.NoError(t, err)
	hashes, err := tlog.StoredHashes(n, leaf, e)
	require.NoError(t, err)
	e.StoredHashes, e.leaves = append(e.StoredHashes, hashes...), append(e.leaves, leaf)
}

func (e *example) checkpoint(t *testing.T, size int64) string {
	t.Helper()
	root, err := tlog.TreeHash(size, e)
	require.NoError(t, err)
	signed, err := auditlog.Sign(auditlog.Checkpoint{Origin: e.signer.Name(), Size: size, Root: root}, e.signer)
	require.NoError(t, err)
	return string(signed)
}

// files are those of the directory, by name.
func (e *example) files(t *testing.T) map[string]string {
	t.Helper()
	size := int64(len(e.leaves))
	encode := func(value any) []byte {
		raw, err := json.Marshal(value)
		require.NoError(t, err)
		return append(raw, '\n')
	}
	export := encode(auditlog.ExportHeader{Checkpoint: e.checkpoint(t, size), TreeSize: size, Before: []tlog.Hash{}})
	for i, leaf := range e.leaves {
		export = auditlog.AppendExportLine(export, int64(i), auditlog.HashLeaf(leaf), leaf, nil)
	}
	export = append(export, encode(auditlog.ExportTrailer{Cursor: fmt.Sprint(size), Complete: true, Dropped: []auditlog.DroppedDay{}})...)
	inclusion, err := tlog.ProveRecord(size, 2, e)
	require.NoError(t, err)
	consistency, err := tlog.ProveTree(size, 3, e)
	require.NoError(t, err)
	return map[string]string{
		"log.pub":          e.public + "\n",
		"export.ndjson":    string(export),
		"older.checkpoint": e.checkpoint(t, 3),
		"consistency.json": string(encode(auditlog.Consistency{From: 3, To: size, Hashes: consistency})),
		"proof.json": string(encode(auditlog.Proof{
			LeafIndex: 2, TreeSize: size, Hashes: inclusion, Checkpoint: e.checkpoint(t, size), Leaf: string(e.leaves[2]), LeafHash: auditlog.HashLeaf(e.leaves[2]),
		})),
	}
}

func TestTheAuditExampleIsWhatTheLogWouldGive(t *testing.T) {
	t.Parallel()
	for name, want := range newExample(t).files(t) {
		path := filepath.Join(auditExample, name)
		if os.Getenv("UPDATE_DOCS") != "" {
			require.NoError(t, os.WriteFile(path, []byte(want), 0o644))
		}
		got, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, want, string(got), "%s is not up to date: %s", path, updateAudit)
	}
}

// step is a script of the document, and what it says that it prints.
type step struct {
	script   string
	prints   string
	from, to int // of what it prints, in the document
}

func steps(t *testing.T, doc string) []step {
	t.Helper()
	var found []step
	at := 0
	block := func(opening string) (text string, start int, ok bool) {
		begin := strings.Index(doc[at:], opening)
		if begin < 0 {
			return "", 0, false
		}
		start = at + begin + len(opening)
		end := strings.Index(doc[start:], "\n```\n")
		require.GreaterOrEqual(t, end, 0, "a block without end")
		return doc[start : start+end+1], start, true
	}
	for {
		script, start, ok := block("```sh\n")
		if !ok {
			return found
		}
		at = start + len(script)
		s := step{script: script, from: -1}
		next, begin, ok := block("```text\n")
		if another := strings.Index(doc[at:], "```sh\n"); ok && (another < 0 || begin < at+another) {
			s.prints, s.from, s.to = next, begin, begin+len(next)
			at = s.to
		}
		found = append(found, s)
	}
}

func TestTheAuditDocumentPrintsWhatItSays(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"bash", "openssl", "jq", "sha256sum"} {
		if _, err := exec.LookPath(tool); err != nil && os.Getenv("CI") == "" {
			t.Skipf("%s is not installed", tool)
		}
	}
	raw, err := os.ReadFile(auditDoc)
	require.NoError(t, err)
	doc := string(raw)
	all := steps(t, doc)
	require.Greater(t, len(all), 10)

	dir := t.TempDir()
	for name, content := range newExample(t).files(t) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	const mark = "==== end of a step ===="
	var script strings.Builder
	for _, s := range all {
		fmt.Fprintf(&script, "%secho '%s'\n", s.script, mark)
	}
	bin := t.TempDir()
	self, err := os.Executable()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(bin, "agentidp"), []byte("#!/bin/sh\n"+asProgram+"=1 exec '"+self+"' \"$@\" 2>/dev/null\n"), 0o755))
	command := exec.Command("bash", "-euo", "pipefail", "-c", script.String())
	command.Dir = dir
	command.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
	var stderr bytes.Buffer
	command.Stderr = &stderr
	out, err := command.Output()
	require.NoError(t, err, "%s\n%s", out, &stderr)
	printed := strings.Split(string(out), mark+"\n")
	require.Len(t, printed, len(all)+1)
	if os.Getenv("UPDATE_DOCS") != "" {
		for i := len(all) - 1; i >= 0; i-- {
			if s := all[i]; s.from >= 0 {
				doc = doc[:s.from] + printed[i] + doc[s.to:]
			}
		}
		require.NoError(t, os.WriteFile(auditDoc, []byte(doc), 0o644))
		return
	}
	for i, s := range all {
		require.Equal(t, s.prints, printed[i], "what this prints is not up to date (%s):\n%s", updateAudit, s.script)
	}
}
