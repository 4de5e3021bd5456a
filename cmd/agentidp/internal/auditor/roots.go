package auditor

import (
	"cmp"
	"slices"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sentryagent/agentidp/pkg/auditlog"
)

// roots are the checkpoints that the log has signed, one for each size, and what has been shown of which is a
// beginning of which. That one is signed says nothing about the others.
type roots struct {
	bySize map[int64]*root
	links  []link
}

// root is the root of a checkpoint.
type root struct {
	hash   tlog.Hash
	before bool // kept from an earlier run
	signed bool // of this run
	whole  bool // an unfiltered export has to reach it
	met    bool // the leaves that were read make it
	wrong  bool // they do not, or the log signed another one: that has been told
}

// link says that the tree of from leaves is the beginning of that of to leaves.
type link struct{ from, to int64 }

func newRoots() roots { return roots{bySize: map[int64]*root{}} }

// of is the root of a checkpoint's size. other tells that it is another one than the checkpoint's.
func (r *roots) of(c auditlog.Checkpoint) (known *root, other bool) {
	known, ok := r.bySize[c.Size]
	if !ok {
		known = &root{hash: c.Root}
		r.bySize[c.Size] = known
	}
	return known, known.hash != c.Root
}

func (r *roots) connect(from, to int64) {
	if from < to {
		r.links = append(r.links, link{from, to})
	}
}

// beginnings are the sizes of which it was shown that their tree is the beginning of that of size leaves. From
// two beginnings of one tree nothing follows in the other direction: 30 leaves may go on in two ways.
func (r *roots) beginnings(size int64) map[int64]bool {
	shown := map[int64]bool{0: true, size: true}
	links := slices.SortedFunc(slices.Values(r.links), func(a, b link) int { return cmp.Compare(b.to, a.to) })
	for _, l := range links {
		if shown[l.to] && !r.bySize[l.from].wrong {
			shown[l.from] = true
		}
	}
	return shown
}

// sizes of all roots, smallest first.
func (r *roots) sizes() []int64 {
	sizes := make([]int64, 0, len(r.bySize))
	for size := range r.bySize {
		sizes = append(sizes, size)
	}
	slices.Sort(sizes)
	return sizes
}
