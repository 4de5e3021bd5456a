package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sentryagent/agentidp/pkg/auditlog"
)

// auditor knows the public key of the log and nothing else.
type auditor struct {
	in  *installation
	key note.Verifier
}

func (in *installation) auditor(t *testing.T) auditor {
	t.Helper()
	public, err := os.ReadFile(filepath.Join(in.dir, "audit-log.pub"))
	require.NoError(t, err)
	key, err := note.NewVerifier(string(bytes.TrimSpace(public)))
	require.NoError(t, err)
	return auditor{in: in, key: key}
}

// get asks without a token.
func (a auditor) get(t *testing.T, path string) answer {
	t.Helper()
	got := a.in.call(t, http.MethodGet, "/api/v1/audit/"+path, "", nil)
	require.Equal(t, http.StatusOK, got.status, "%s", got.body)
	return got
}

func (a auditor) checkpoint(t *testing.T) auditlog.Checkpoint {
	t.Helper()
	head, _, err := auditlog.Open(a.get(t, "checkpoint").body, a.key)
	require.NoError(t, err)
	return head
}

// requireGrown verifies that the newer tree begins with the older one.
func (a auditor) requireGrown(t *testing.T, older, newer auditlog.Checkpoint) {
	t.Helper()
	var proof auditlog.Consistency
	a.get(t, fmt.Sprintf("consistency?from=%d&to=%d", older.Size, newer.Size)).decode(t, &proof)
	require.NoError(t, tlog.CheckTree(proof.Hashes, newer.Size, newer.Root, older.Size, older.Root))
}

func TestAnAuditorVerifiesTheTrailWithThePublicKeyAlone(t *testing.T) {
	t.Parallel()
	in := install(t)
	operator, a := in.operator(t), in.auditor(t)
	for i := range 3 {
		in.register(t, operator, fmt.Sprintf("log-%d@example.com", i), nil)
	}
	var events []map[string]any
	eventually(t, func() bool { events = in.trail(t, operator, "action=agent.created"); return len(events) >= 3 }, "the events come into the trail")
	before := a.checkpoint(t)
	for _, event := range events {
		got := in.call(t, http.MethodGet, "/api/v1/audit/"+event["eventId"].(string)+"/proof", operator, nil)
		require.Equal(t, http.StatusOK, got.status, "%s", got.body)
		var proof auditlog.Proof
		got.decode(t, &proof)
		require.Contains(t, proof.Leaf, event["eventId"].(string))
		require.Equal(t, auditlog.HashLeaf([]byte(proof.Leaf)), proof.LeafHash)
		head, _, err := auditlog.Open([]byte(proof.Checkpoint), a.key)
		require.NoError(t, err)
		require.NoError(t, tlog.CheckRecord(proof.Hashes, head.Size, head.Root, proof.LeafIndex, proof.LeafHash))
	}

	bundle := fmt.Sprintf("entries/000.p/%d", before.Size)
	require.Equal(t, http.StatusUnauthorized, in.call(t, http.MethodGet, "/api/v1/audit/tile/"+bundle, "", nil).status)
	entries := in.call(t, http.MethodGet, "/api/v1/audit/tile/"+bundle, operator, nil)
	require.Equal(t, http.StatusOK, entries.status, "%s", entries.body)
	leaves, err := auditlog.ReadEntries(entries.body)
	require.NoError(t, err)
	hashes, err := auditlog.TileHashes(a.get(t, fmt.Sprintf("tile/0/000.p/%d", before.Size)).body)
	require.NoError(t, err)
	tree := &auditlog.Frontier{}
	for i, leaf := range leaves {
		require.Equal(t, hashes[i], auditlog.HashLeaf(leaf))
		tree.Add(hashes[i])
	}
	require.Equal(t, before.Root, tree.Root())

	in.kill(t)
	again := start(t, in.dir, in.port)
	b := again.auditor(t)
	again.register(t, again.operator(t), "log-later@example.com", nil)
	eventually(t, func() bool { return b.checkpoint(t).Size > before.Size }, "the log grows")
	b.requireGrown(t, before, b.checkpoint(t))
}
