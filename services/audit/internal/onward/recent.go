package onward

import (
	"slices"
	"sync"
)

const (
	// maxRecent and maxRecentBytes bound what is kept: some pages, so that a publisher
	// that is as fast as events come reads none of them again.
	maxRecent      = 4 * pageEvents
	maxRecentBytes = 4 << 20
)

// recent keeps the newest leaves that this replica has stored, without a gap. It is safe
// for concurrent use, and its zero value is empty.
type recent struct {
	mutex  sync.Mutex
	leaves []leaf
	bytes  int // of their texts
}

// add keeps leaves: instead of all others where another replica has stored some in
// between, and instead of the oldest where there is no room for all.
func (r *recent) add(leaves []leaf) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if kept := len(r.leaves); kept > 0 && leaves[0].index != r.leaves[kept-1].index+1 {
		r.drop(kept)
	}
	r.leaves = append(r.leaves, leaves...)
	for _, l := range leaves {
		r.bytes += len(l.text)
	}
	surplus := 0
	for bytes := r.bytes; len(r.leaves)-surplus > maxRecent || bytes > maxRecentBytes; surplus++ {
		bytes -= len(r.leaves[surplus].text)
	}
	r.drop(surplus)
}

// take gives the leaves from first on, at most so many, and keeps neither them nor older
// ones any more. It gives none where it has not the first.
func (r *recent) take(first, most int64) []leaf {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	older := 0
	for older < len(r.leaves) && r.leaves[older].index < first {
		older++
	}
	r.drop(older)
	if len(r.leaves) == 0 || r.leaves[0].index != first {
		return nil
	}
	taken := slices.Clone(r.leaves[:min(most, int64(len(r.leaves)))])
	r.drop(len(taken))
	return taken
}

// clear forgets all leaves.
func (r *recent) clear() {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.drop(len(r.leaves))
}

// drop forgets the first n leaves.
func (r *recent) drop(n int) {
	for _, l := range r.leaves[:n] {
		r.bytes -= len(l.text)
	}
	r.leaves = slices.Delete(r.leaves, 0, n)
}
