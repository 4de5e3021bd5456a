package auditlog

import (
	"errors"
	"math/bits"
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

// Frontier is all that is needed of a tree to go on with it: the roots of the full subtrees that it is
// made of, largest first, one for each bit of its size. Leaves are added to it one by one, so the root
// of any number of them is computed in the memory of at most 63 hashes. The zero value is an empty tree.
type Frontier struct {
	size   int64
	hashes []tlog.Hash
}

// NewFrontier goes on with a tree of a size (0 to MaxSize) whose subtrees have these roots.
func NewFrontier(size int64, hashes []tlog.Hash) (*Frontier, error) {
	if size < 0 || size > MaxSize || len(hashes) != bits.OnesCount64(uint64(size)) {
		return nil, errors.New("a tree of this size has another number of subtrees")
	}
	return &Frontier{size: size, hashes: slices.Clone(hashes)}, nil
}

// ReadFrontier is the frontier of the first size leaves (≥ 0) of the tree behind reader.
func ReadFrontier(size int64, reader tlog.HashReader) (*Frontier, error) {
	if size <= 0 {
		return NewFrontier(size, nil)
	}
	hashes, err := reader.ReadHashes(frontierIndexes(size))
	if err != nil {
		return nil, err
	}
	return NewFrontier(size, hashes)
}

// frontierIndexes says where the hashes of a frontier are stored, in the numbering of
// tlog.StoredHashIndex, largest subtree first.
func frontierIndexes(size int64) []int64 {
	var indexes []int64
	for level := bits.Len64(uint64(size)) - 1; level >= 0; level-- { //nolint:gosec // sizes are not negative
		if size>>level&1 == 1 {
			indexes = append(indexes, tlog.StoredHashIndex(level, size>>level-1))
		}
	}
	return indexes
}

// Add appends a leaf by its hash.
func (f *Frontier) Add(leaf tlog.Hash) { f.carry(leaf, func(int, int64, tlog.Hash) {}) }

// carry appends a leaf and tells of each subtree that it completes, beginning with itself, of height 0: the number of
// the subtree among those of its height, and its root.
func (f *Frontier) carry(hash tlog.Hash, completed func(height int, number int64, hash tlog.Hash)) {
	height := 0
	for completed(height, f.size>>height, hash); f.size>>height&1 == 1; completed(height, f.size>>height, hash) {
		last := len(f.hashes) - 1
		hash = tlog.NodeHash(f.hashes[last], hash)
		f.hashes = f.hashes[:last]
		height++
	}
	f.hashes = append(f.hashes, hash)
	f.size++
}

// Size is the number of leaves.
func (f *Frontier) Size() int64 { return f.size }

// Hashes are the roots of the subtrees, largest first: a copy, never nil.
func (f *Frontier) Hashes() []tlog.Hash { return append([]tlog.Hash{}, f.hashes...) }

// Root is the hash of the tree (RFC 6962 §2.1), for no leaves SHA-256 of nothing.
func (f *Frontier) Root() tlog.Hash {
	if f.size == 0 {
		empty, _ := tlog.TreeHash(0, nil) // asks its reader for nothing
		return empty
	}
	root := f.hashes[len(f.hashes)-1]
	for i := len(f.hashes) - 2; i >= 0; i-- {
		root = tlog.NodeHash(f.hashes[i], root)
	}
	return root
}
