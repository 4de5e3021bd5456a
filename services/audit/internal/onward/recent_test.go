package onward

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// made are leaves from first to before end with texts of so many bytes.
func made(first, end int64, bytes int) []leaf {
	var leaves []leaf
	for i := first; i < end; i++ {
		leaves = append(leaves, leaf{index: i, text: make([]byte, bytes)})
	}
	return leaves
}

func TestRecentLeavesAreGivenOnceAndInOrder(t *testing.T) {
	t.Parallel()
	var r recent
	require.Empty(t, r.take(0, 10))
	r.add(made(5, 8, 1))
	r.add(made(8, 10, 1))
	require.Empty(t, r.take(4, 10), "it was stored elsewhere, or before this replica began")
	require.Equal(t, made(6, 9, 1), r.take(6, 3))
	require.Empty(t, r.take(8, 10), "given already")
	require.Equal(t, made(9, 10, 1), r.take(9, 10))
	require.Zero(t, r.bytes)
}

func TestRecentLeavesHaveNoGap(t *testing.T) {
	t.Parallel()
	var r recent
	r.add(made(0, 5, 1))
	r.add(made(7, 9, 1))
	require.Empty(t, r.take(0, 10))
	require.Equal(t, made(7, 9, 1), r.take(7, 10))
}

func TestRecentLeavesAreBounded(t *testing.T) {
	t.Parallel()
	var r recent
	r.add(made(0, maxRecent, 1))
	r.add(made(maxRecent, maxRecent+3, 1))
	require.Len(t, r.leaves, maxRecent)
	require.EqualValues(t, 3, r.leaves[0].index)

	r.add(made(maxRecent+3, maxRecent+5, maxRecentBytes))
	require.Len(t, r.leaves, 1, "the newest fills the room")
	require.Equal(t, maxRecentBytes, r.bytes)
}
