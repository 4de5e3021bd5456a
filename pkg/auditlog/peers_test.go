package auditlog_test

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	flog "github.com/transparency-dev/formats/log"
	fnote "github.com/transparency-dev/formats/note"
	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sentryagent/agentidp/pkg/auditlog"
	"github.com/sentryagent/agentidp/pkg/testkit"
)

// These tests hold the package against other people's implementations of the same documents:
// golang.org/x/mod/sumdb (the Go checksum database) and github.com/transparency-dev (certificate
// transparency's authors).

const origin = testkit.LogOrigin

func leafHashOf(t *testing.T, leaf string) string {
	t.Helper()
	sum := sha256.Sum256(append([]byte{0}, leaf...))
	return hex.EncodeToString(sum[:])
}

// logOf is a log of n leaves in memory, with its hashes where tlog wants them.
func logOf(t *testing.T, n int64) (tlog.HashReaderFunc, []tlog.Hash) {
	t.Helper()
	var stored []tlog.Hash
	read := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		hashes := make([]tlog.Hash, len(indexes))
		for i, index := range indexes {
			hashes[i] = stored[index]
		}
		return hashes, nil
	})
	leaves := make([]tlog.Hash, n)
	for i := range n {
		leaf := fmt.Appendf(nil, `{"leaf":%d}`, i)
		leaves[i] = auditlog.HashLeaf(leaf)
		require.Equal(t, rfc6962.DefaultHasher.HashLeaf(leaf), leaves[i][:])
		more, err := tlog.StoredHashes(i, leaf, read)
		require.NoError(t, err)
		stored = append(stored, more...)
	}
	return read, leaves
}

func TestAFrontierHasTheRootOfTheTree(t *testing.T) {
	t.Parallel()
	const leaves = 600 // more than two tiles
	read, hashes := logOf(t, leaves)
	ranges := compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}
	theirs := ranges.NewEmptyRange(0)
	var ours auditlog.Frontier
	for size := range int64(leaves + 1) {
		want, err := tlog.TreeHash(size, read)
		require.NoError(t, err)
		require.Equal(t, want, ours.Root(), size)
		require.Equal(t, size, ours.Size())
		stored, err := auditlog.ReadFrontier(size, read)
		require.NoError(t, err)
		require.Equal(t, ours.Hashes(), stored.Hashes(), size)
		require.Len(t, theirs.Hashes(), len(ours.Hashes()))
		for i, hash := range theirs.Hashes() {
			require.Equal(t, hash, ours.Hashes()[i][:])
		}
		if size < leaves {
			ours.Add(hashes[size])
			require.NoError(t, theirs.Append(hashes[size][:], nil))
		}
	}
	_, err := auditlog.NewFrontier(3, hashes[:1])
	require.Error(t, err, "three leaves are two subtrees")
	_, err = auditlog.NewFrontier(1<<62, hashes[:1])
	require.Error(t, err)
	_, err = auditlog.NewFrontier(-1, hashes[:64])
	require.Error(t, err)
}

func TestProofsAreThoseOfCertificateTransparency(t *testing.T) {
	t.Parallel()
	const leaves = 70
	read, hashes := logOf(t, leaves)
	for size := int64(1); size <= leaves; size++ {
		root, err := tlog.TreeHash(size, read)
		require.NoError(t, err)
		for index := range size {
			path, err := tlog.ProveRecord(size, index, read)
			require.NoError(t, err)
			require.NoError(t, proof.VerifyInclusion(rfc6962.DefaultHasher, uint64(index), uint64(size), hashes[index][:], raw(path), root[:]))
		}
		for old := int64(1); old <= size; old++ {
			before, err := tlog.TreeHash(old, read)
			require.NoError(t, err)
			path, err := tlog.ProveTree(size, old, read)
			require.NoError(t, err)
			require.NoError(t, proof.VerifyConsistency(rfc6962.DefaultHasher, uint64(old), uint64(size), raw(path), before[:], root[:]))
		}
	}
}

func raw(hashes []tlog.Hash) [][]byte {
	out := make([][]byte, len(hashes))
	for i := range hashes {
		out[i] = hashes[i][:]
	}
	return out
}

func TestACheckpointIsReadByOthersAndTheirsByUs(t *testing.T) {
	t.Parallel()
	key := testkit.AuditLogKey(t)
	signer, verifier := key.Signer, key.Verifier
	derived, err := auditlog.PublicKey(key.Secret)
	require.NoError(t, err)
	require.Equal(t, key.Public, derived)

	for _, size := range []int64{0, 1, 1 << 40} {
		c := auditlog.Checkpoint{Origin: origin, Size: size, Root: auditlog.HashLeaf(fmt.Append(nil, size))}
		signed, err := auditlog.Sign(c, signer)
		require.NoError(t, err)
		theirs, rest, _, err := flog.ParseCheckpoint(signed, origin, verifier)
		require.NoError(t, err)
		require.Empty(t, rest)
		require.Equal(t, flog.Checkpoint{Origin: origin, Size: uint64(size), Hash: c.Root[:]}, *theirs)
		require.Equal(t, string(theirs.Marshal()), c.String())
		ours, opened, err := auditlog.Open(signed, verifier)
		require.NoError(t, err)
		require.Equal(t, c, ours)
		require.Len(t, opened.Sigs, 1)
	}
}

func TestAWitnessSignsAsOthersDo(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)
	secret, public, err := auditlog.GenerateWitnessKey(rand.Reader, "witness.example")
	require.NoError(t, err)
	cosigner, err := auditlog.NewCosigner(secret, func() time.Time { return at })
	require.NoError(t, err)
	require.Equal(t, public, cosigner.PublicKey())
	mine, err := auditlog.NewCosignatureVerifier(public)
	require.NoError(t, err)
	theirSigner, err := fnote.NewSignerForCosignatureV1(secret)
	require.NoError(t, err)
	theirs := theirSigner.Verifier()
	require.Equal(t, mine.KeyHash(), theirs.KeyHash())
	require.Equal(t, mine.Name(), theirs.Name())

	key := testkit.AuditLogKey(t)
	logSigner, logVerifier := key.Signer, key.Verifier
	c := auditlog.Checkpoint{Origin: origin, Size: 7, Root: auditlog.HashLeaf(nil)}
	head, err := auditlog.Sign(c, logSigner)
	require.NoError(t, err)

	t.Run("what we sign, they check", func(t *testing.T) {
		t.Parallel()
		line, err := auditlog.SignatureLine(c.String(), cosigner)
		require.NoError(t, err)
		signed := append(append([]byte{}, head...), line...)
		_, _, opened, err := flog.ParseCheckpoint(signed, origin, logVerifier, theirs)
		require.NoError(t, err)
		require.Len(t, opened.Sigs, 2)
		when, err := fnote.CoSigV1Timestamp(opened.Sigs[1])
		require.NoError(t, err)
		require.True(t, at.Equal(when))
		_, opened, err = auditlog.Open(signed, logVerifier, mine)
		require.NoError(t, err)
		require.True(t, auditlog.SignedBy(opened, mine))
		when, err = auditlog.CosignedAt(opened.Sigs[1])
		require.NoError(t, err)
		require.True(t, at.Equal(when))

		_, opened, err = auditlog.Open(signed, logVerifier)
		require.NoError(t, err, "a witness that nobody asked about does no harm")
		require.False(t, auditlog.SignedBy(opened, mine))
	})
	t.Run("what they sign, we check", func(t *testing.T) {
		t.Parallel()
		signed, err := auditlog.Sign(c, logSigner, theirSigner)
		require.NoError(t, err)
		_, opened, err := auditlog.Open(signed, logVerifier, mine)
		require.NoError(t, err)
		require.True(t, auditlog.SignedBy(opened, mine))
	})
	t.Run("a witness's signature is not a log's", func(t *testing.T) {
		t.Parallel()
		signed, err := auditlog.Sign(c, cosigner)
		require.NoError(t, err)
		_, _, err = auditlog.Open(signed, logVerifier, mine)
		require.ErrorIs(t, err, auditlog.ErrOtherLog)
	})
	t.Run("another time than the signed one is refused", func(t *testing.T) {
		t.Parallel()
		sig, err := cosigner.Sign([]byte(c.String()))
		require.NoError(t, err)
		require.True(t, mine.Verify([]byte(c.String()), sig))
		sig[7]++
		require.False(t, mine.Verify([]byte(c.String()), sig))
		require.False(t, mine.Verify([]byte(c.String()), sig[8:]))
	})
	t.Run("a plain key is taken for cosignatures", func(t *testing.T) {
		t.Parallel()
		plain, err := auditlog.PublicKey(secret)
		require.NoError(t, err)
		require.NotEqual(t, public, plain)
		verifier, err := auditlog.NewCosignatureVerifier(plain)
		require.NoError(t, err)
		require.Equal(t, mine.KeyHash(), verifier.KeyHash())
	})
}

func TestACheckpointOfAnotherLogIsRefused(t *testing.T) {
	t.Parallel()
	key, stranger := testkit.AuditLogKey(t), testkit.AuditLogKey(t)
	signer, verifier := key.Signer, key.Verifier
	c := auditlog.Checkpoint{Origin: origin, Size: 3, Root: auditlog.HashLeaf(nil)}

	other := c
	other.Origin = "example.com/other"
	signed, err := auditlog.Sign(other, signer)
	require.NoError(t, err)
	_, _, err = auditlog.Open(signed, verifier)
	require.ErrorIs(t, err, auditlog.ErrOtherLog, "the origin is not the key's name")

	signed, err = auditlog.Sign(c, stranger.Signer)
	require.NoError(t, err)
	_, _, err = auditlog.Open(signed, verifier)
	require.ErrorIs(t, err, auditlog.ErrOtherLog, "another key of the same name")

	signed, err = auditlog.Sign(c, signer)
	require.NoError(t, err)
	_, _, err = auditlog.Open([]byte(strings.Replace(string(signed), "\n3\n", "\n4\n", 1)), verifier)
	require.ErrorIs(t, err, auditlog.ErrOtherLog, "a changed text")
}

func TestOnlyTheTextOfACheckpointIsOne(t *testing.T) {
	t.Parallel()
	root := auditlog.HashLeaf(nil).String()
	second := string(root[42] + 1) // of its six bits the last two say nothing
	same, err := tlog.ParseHash(root[:42] + second + "=")
	require.NoError(t, err)
	require.Equal(t, auditlog.HashLeaf(nil), same)
	got, err := auditlog.ParseCheckpoint(origin + "\n7\n" + root + "\nan extension\n")
	require.NoError(t, err)
	require.Equal(t, auditlog.Checkpoint{Origin: origin, Size: 7, Root: auditlog.HashLeaf(nil)}, got)
	for name, text := range map[string]string{
		"nothing":                    "",
		"two lines":                  origin + "\n7\n",
		"no newline at the end":      origin + "\n7\n" + root,
		"an empty origin":            "\n7\n" + root + "\n",
		"a negative size":            origin + "\n-7\n" + root + "\n",
		"a size with a zero before":  origin + "\n07\n" + root + "\n",
		"a size past all":            origin + "\n9223372036854775808\n" + root + "\n",
		"a short root":               origin + "\n7\n" + root[:40] + "\n",
		"a root in an unpadded form": origin + "\n7\n" + strings.TrimRight(root, "=") + "\n",
		"a root in a second form":    origin + "\n7\n" + root[:42] + second + "=\n",
		"an empty extension":         origin + "\n7\n" + root + "\n\nmore\n",
	} {
		_, err := auditlog.ParseCheckpoint(text)
		require.ErrorIs(t, err, auditlog.ErrNotCheckpoint, name)
	}
}

func TestKeysHaveNames(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "with space", "with+plus"} {
		_, _, err := auditlog.GenerateKey(rand.Reader, name)
		require.Error(t, err, name)
	}
	_, err := auditlog.NewCosigner("PRIVATE+KEY+x+00000000+AAAA", time.Now)
	require.Error(t, err)
	_, err = auditlog.PublicKey("nonsense")
	require.Error(t, err)
	_, public, err := auditlog.GenerateWitnessKey(rand.Reader, "w")
	require.NoError(t, err)
	for name, key := range map[string]string{
		"nothing":          "",
		"no parts":         "w",
		"another name":     "x" + public[1:],
		"a cut key":        public[:len(public)-8],
		"no base64":        "w+00000000+***",
		"a key of no kind": "w+00000000+" + strings.Repeat("A", 44),
	} {
		_, err := auditlog.NewCosignatureVerifier(key)
		require.Error(t, err, name)
	}
}
