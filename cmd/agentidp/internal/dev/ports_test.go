package dev

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestATakenPortIsAnErrorOnlyIfItWasAskedFor(t *testing.T) {
	t.Parallel()
	taken, err := listenIngress(t.Context(), 0, true)
	require.NoError(t, err, "0 means any")
	t.Cleanup(func() { _ = taken.Close() })
	port := portOf(taken)

	_, err = listenIngress(t.Context(), port, true)
	require.ErrorContains(t, err, "is taken")
	require.ErrorContains(t, err, "--port")

	other, err := listenIngress(t.Context(), port, false)
	require.NoError(t, err)
	require.NotEqual(t, port, portOf(other))
	require.NoError(t, other.Close())
	require.Equal(t, "127.0.0.1", taken.Addr().(interface{ String() string }).String()[:9], "nobody outside this machine gets in")
}

func TestPortsBelongToOneRunAndAreOutOfTheWayOfOutgoingConnections(t *testing.T) {
	t.Parallel()
	seen := make(map[int]bool)
	for range 20 {
		block, err := takePorts(t.Context(), portsNeeded(4))
		require.NoError(t, err)
		t.Cleanup(block.release)
		for _, port := range block.ports {
			require.False(t, seen[port], "no two runs share a port, though nothing listens there")
			seen[port] = true
			require.GreaterOrEqual(t, port, lowestInnerPort)
			require.Less(t, port, highestInnerPort)
		}
		listener, err := listen(t.Context(), block.ports[0])
		require.NoError(t, err, "they can be listened on")
		require.NoError(t, listener.Close())
	}
	_, err := takePorts(t.Context(), highestInnerPort)
	require.Error(t, err)
}
