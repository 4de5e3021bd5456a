package invalidation_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/services/token/internal/invalidation"
)

func TestAChangeMovesTheEpochOfItsAgent(t *testing.T) {
	t.Parallel()
	epochs := invalidation.New(func() bool { return true })
	one := uuid.MustParse("019aa9c0-7d52-7c3e-9b0a-5f0d3c1e0001")
	other := uuid.MustParse("019aa9c0-7d52-7c3e-9b0a-5f0d3c1e0002")
	before, untouched := epochs.Of(one), epochs.Of(other)
	epochs.Changed(one)
	require.NotEqual(t, before, epochs.Of(one))
	require.Equal(t, untouched, epochs.Of(other))
	epochs.Missed()
	require.NotEqual(t, untouched, epochs.Of(other))
}

func TestNothingIsBelievedForLongWhileNoChangesArrive(t *testing.T) {
	t.Parallel()
	following := true
	epochs := invalidation.New(func() bool { return following })
	require.Equal(t, time.Minute, epochs.Lifetime(time.Minute))
	following = false
	require.Equal(t, 5*time.Second, epochs.Lifetime(time.Minute))
	require.Equal(t, time.Second, epochs.Lifetime(time.Second))
}
