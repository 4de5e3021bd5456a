package telemetry_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/telemetry"
)

func TestMetricsAreLookedAfterAtOnceAndThenFromTimeToTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second)
		defer cancel()
		began := time.Now()
		var looked []time.Duration
		telemetry.Every(ctx, 10*time.Second, func(context.Context) { looked = append(looked, time.Since(began)) })
		require.Equal(t, []time.Duration{0, 10 * time.Second, 20 * time.Second}, looked)
		require.Equal(t, 25*time.Second, time.Since(began), "it ends with its context")
	})
}
