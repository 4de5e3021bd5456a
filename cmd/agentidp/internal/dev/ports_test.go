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

func TestFreePortsAreDistinctAndOutOfTheWayOfOutgoingConnections(t *testing.T) {
	t.Parallel()
	ports, err := freePorts(t.Context(), 50)
	require.NoError(t, err)
	seen := make(map[int]bool)
	for _, port := range ports {
		require.False(t, seen[port])
		seen[port] = true
		require.GreaterOrEqual(t, port, lowestInnerPort)
		require.Less(t, port, highestInnerPort)
		listener, err := listen(t.Context(), port)
		require.NoError(t, err, "they are free again")
		require.NoError(t, listener.Close())
	}
	_, err = freePorts(t.Context(), highestInnerPort)
	require.Error(t, err)
}
