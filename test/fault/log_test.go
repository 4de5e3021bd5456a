package main

import (
	"crypto/rand"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sentryagent/agentidp/pkg/auditlog"
)

// smallLog is a log of some events, with the proof of each and the head at each size.
type smallLog struct {
	events   []event
	proofs   []auditlog.Proof
	heads    [][]byte
	verifier note.Verifier
}

func makeLog(t *testing.T, size int64, tag string, key string) smallLog {
	t.Helper()
	signer, err := note.NewSigner(key)
	require.NoError(t, err)
	public, err := auditlog.PublicKey(key)
	require.NoError(t, err)
	l := smallLog{}
	l.verifier, err = note.NewVerifier(public)
	require.NoError(t, err)
	var tree []tlog.Hash
	read := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		hashes := make([]tlog.Hash, len(indexes))
		for i, index := range indexes {
			hashes[i] = tree[index]
		}
		return hashes, nil
	})
	head := func(n int64) []byte {
		root, err := tlog.TreeHash(n, read)
		require.NoError(t, err)
		signed, err := auditlog.Sign(auditlog.Checkpoint{Origin: signer.Name(), Size: n, Root: root}, signer)
		require.NoError(t, err)
		return signed
	}
	for i := range size {
		e := happened(t, fmt.Sprintf("e%d", i), "token.issued", tag, `,"service":"token"`)
		leaf, err := auditlog.Leaf(e.payload)
		require.NoError(t, err)
		more, err := tlog.StoredHashesForRecordHash(i, auditlog.HashLeaf(leaf), read)
		require.NoError(t, err)
		tree = append(tree, more...)
		l.events, l.heads = append(l.events, e), append(l.heads, head(i+1))
		l.proofs = append(l.proofs, auditlog.Proof{LeafIndex: i, TreeSize: size, Leaf: string(leaf), LeafHash: auditlog.HashLeaf(leaf)})
	}
	for i := range l.proofs {
		hashes, err := tlog.ProveRecord(size, int64(i), read)
		require.NoError(t, err)
		l.proofs[i].Hashes, l.proofs[i].Checkpoint = hashes, string(l.heads[size-1])
	}
	return l
}

func newLogKey(t *testing.T) string {
	t.Helper()
	secret, _, err := auditlog.GenerateKey(rand.Reader, "test/audit")
	require.NoError(t, err)
	return secret
}

func (l smallLog) take(t *testing.T, upTo int) *leaves {
	t.Helper()
	all := &leaves{hashes: map[int64]tlog.Hash{}, holders: map[int64]event{}}
	for i, e := range l.events[:upTo] {
		all.take(e, l.proofs[i], checkProof(e, l.proofs[i], l.verifier))
	}
	return all
}

func TestProofsOfAWholeLogVerify(t *testing.T) {
	t.Parallel()
	l := makeLog(t, 7, "r", newLogKey(t))
	all := l.take(t, 7)
	require.Empty(t, all.found)
	seen := make([]observed, 0, len(l.heads))
	for _, head := range l.heads {
		seen = append(seen, observed{signed: head})
	}
	require.Empty(t, all.heads(seen, l.verifier))
}

func TestAProofThatIsWrongIsFound(t *testing.T) {
	t.Parallel()
	key := newLogKey(t)
	l, other := makeLog(t, 7, "r", key), makeLog(t, 7, "another", key)
	good := l.proofs[3]
	for wrong, change := range map[string]func(*auditlog.Proof){
		"another leaf":                func(p *auditlog.Proof) { *p = l.proofs[4] },
		"does not verify":             func(p *auditlog.Proof) { p.LeafIndex = 5 },
		"no checkpoint of this log":   func(p *auditlog.Proof) { p.Checkpoint = "" },
		"for 6 leaves":                func(p *auditlog.Proof) { p.TreeSize = 6 },
		"its proof does not verify: ": func(p *auditlog.Proof) { p.Checkpoint = other.proofs[3].Checkpoint },
	} {
		p := good
		change(&p)
		require.Contains(t, checkProof(l.events[3], p, l.verifier), wrong)
	}
	require.Empty(t, checkProof(l.events[3], good, l.verifier))
	require.Contains(t, checkProof(other.events[3], good, l.verifier), "another leaf", "the event was changed")
}

func TestALogThatIsNotOneIsFound(t *testing.T) {
	t.Parallel()
	key := newLogKey(t)
	l, other := makeLog(t, 7, "r", key), makeLog(t, 7, "another", key)
	twice := l.take(t, 7)
	twice.take(l.events[2], l.proofs[3], "")
	require.Contains(t, twice.found[0].what, "leaf index 3 is also that of")

	gap := l.take(t, 7)
	delete(gap.hashes, 2)
	require.Contains(t, gap.heads(nil, l.verifier)[0].what, "no event has leaf index 2")

	for wrong, seen := range map[string][]observed{
		"the log forked":                   {{signed: other.heads[3]}},
		"it has 7 leaves, and there are 5": {{signed: l.heads[6]}},
		"one before had 4":                 {{signed: l.heads[3]}, {signed: l.heads[2]}},
		"not signed by the log's key":      {{signed: makeLog(t, 2, "r", newLogKey(t)).heads[1]}},
	} {
		found := l.take(t, 5).heads(seen, l.verifier)
		require.Len(t, found, 1, wrong)
		require.Contains(t, found[0].what, wrong)
	}
}
