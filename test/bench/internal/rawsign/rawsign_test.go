package rawsign

import (
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestEveryAlgorithmIsMeasured(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("there is no proc filesystem here")
	}
	signer, err := New(2)
	require.NoError(t, err)
	for _, algorithm := range []string{"RS256", "ES256", "EdDSA"} {
		rate, err := signer.Measure(algorithm, 30*time.Millisecond)
		require.NoError(t, err)
		require.Positive(t, rate.PerSecond, algorithm)
	}
	_, err = signer.Measure("HS256", time.Millisecond)
	require.ErrorContains(t, err, "HS256")
}
