package replica

import (
	"context"
	"errors"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/telemetry"
)

func TestAWatchShowsWhatAnswersAndWhetherTheReplicaIsReady(t *testing.T) {
	t.Parallel()
	tel := telemetry.Discard("registry")
	here, away := func(context.Context) error { return nil }, func(context.Context) error { return errors.New("away") }
	w := watch{telemetry: tel, ready: here, dependencies: map[string]func(context.Context) error{"postgres": here, "redis": away}}
	up := func(dependency string) float64 {
		return testutil.ToFloat64(tel.Metrics.DependencyUp.WithLabelValues(dependency))
	}

	w.look(t.Context())
	require.InDelta(t, 1, up("postgres"), 0)
	require.InDelta(t, 0, up("redis"), 0)
	require.InDelta(t, 1, testutil.ToFloat64(tel.Metrics.Ready), 0)

	w.ready, w.dependencies["redis"] = away, here
	w.look(t.Context())
	require.InDelta(t, 1, up("redis"), 0)
	require.InDelta(t, 0, testutil.ToFloat64(tel.Metrics.Ready), 0)
}

func TestAHangingServerIsAway(t *testing.T) {
	t.Parallel()
	require.InDelta(t, 0, up(t.Context(), func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}), 0)
}
