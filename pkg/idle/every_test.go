package idle_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/idle"
)

func TestWorkIsDoneAtOnceAndThenFromTimeToTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second)
		defer cancel()
		began := time.Now()
		var done []time.Duration
		idle.Every(ctx, 10*time.Second, func(context.Context) { done = append(done, time.Since(began)) })
		require.Equal(t, []time.Duration{0, 10 * time.Second, 20 * time.Second}, done)
		require.Equal(t, 25*time.Second, time.Since(began), "it ends with its context")
	})
}

func TestAnOutageBeginsOnceUntilItIsOver(t *testing.T) {
	t.Parallel()
	var outage idle.Outage
	away := errors.New("away")
	var begins []bool
	for _, err := range []error{nil, away, away, nil, nil, away, away} {
		begins = append(begins, outage.Begins(t.Context(), err))
	}
	require.Equal(t, []bool{false, true, false, false, false, true, false}, begins)

	ended, end := context.WithCancel(t.Context())
	end()
	require.False(t, new(idle.Outage).Begins(ended, context.Canceled), "the work was only interrupted")
}
