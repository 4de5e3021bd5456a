package redisx_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/sony/gobreaker/v2"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/devservers"
	"github.com/sentryagent/agentidp/pkg/redisx"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/pkg/testkit"
)

// watched is a client of the server whose commands are counted.
type watched struct {
	*redisx.Client
	tel *telemetry.Telemetry
	log *bytes.Buffer
}

func watch(t *testing.T, server *devservers.Redis) watched {
	t.Helper()
	w := watched{tel: telemetry.Discard("test"), log: &bytes.Buffer{}}
	w.tel.Log = telemetry.NewLogger(w.log, "test", "info")
	client, err := redisx.Open(redisx.Config{URL: config.Secret(server.URL())}, w.tel)
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	require.NoError(t, client.Ping(t.Context()).Err())
	w.Client = client
	return w
}

// sent is how many commands went to the server, whatever became of them.
func (w watched) sent(t *testing.T) (commands uint64) {
	t.Helper()
	families, err := w.tel.Metrics.Registry.Gather()
	require.NoError(t, err)
	for _, f := range families {
		if f.GetName() == "agentidp_redis_command_duration_seconds" {
			for _, m := range f.GetMetric() {
				commands += m.GetHistogram().GetSampleCount()
			}
		}
	}
	return commands
}

// leftAlone waits until the client asks the server no more.
func (w watched) leftAlone(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := w.Ping(t.Context()).Err()
		require.Error(t, err)
		if errors.Is(err, gobreaker.ErrOpenState) {
			return
		}
		require.True(t, time.Now().Before(deadline), "still asked: %v", err)
	}
}

func TestAServerThatHangsIsLeftAlone(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	server := testkit.RedisServer(t)
	w := watch(t, server)
	thaw := testkit.Freeze(t, server)
	w.leftAlone(t)
	require.Contains(t, w.log.String(), "redis does not answer in time")

	const commands = 1000
	script := redis.NewScript("return 1")
	before := w.sent(t)
	for range commands {
		require.Error(t, w.Get(ctx, "a").Err())
		require.Error(t, w.RunScript(ctx, script, nil).Err(), "by itself")
		pipe := w.Pipeline()
		cmd := pipe.Get(ctx, "a")
		_, err := pipe.Exec(ctx)
		require.Error(t, err)
		require.Error(t, cmd.Err(), "each of a pipeline has the error")
	}
	// Each that is sent takes half a second.
	require.Less(t, w.sent(t)-before, uint64(commands/10), "but now and then nobody waits for it")

	var network net.Error
	require.Eventually(t, func() bool { return errors.As(w.Ping(ctx).Err(), &network) }, 10*time.Second, 10*time.Millisecond,
		"then one is sent")
	require.True(t, network.Timeout())
	// The second one is for a machine that stood still so long that it was time for another.
	again := errors.Join(w.Ping(ctx).Err(), w.Ping(ctx).Err())
	require.ErrorIs(t, again, gobreaker.ErrOpenState, "one that is not answered is enough to be left alone again")

	thaw()
	require.Eventually(t, func() bool { return w.Ping(ctx).Err() == nil }, 10*time.Second, 10*time.Millisecond)
	before = w.sent(t)
	for range commands {
		require.NoError(t, w.Ping(ctx).Err())
	}
	require.GreaterOrEqual(t, w.sent(t)-before, uint64(commands), "it is asked as before")
	require.Contains(t, w.log.String(), "redis is asked again")
}

func TestWhoInsistsAsksAServerThatHangs(t *testing.T) {
	t.Parallel()
	server := testkit.RedisServer(t)
	w := watch(t, server)
	thaw := testkit.Freeze(t, server)
	w.leftAlone(t)
	before := w.sent(t)
	require.Error(t, w.Insisting().Ping(t.Context()).Err())
	require.Error(t, w.Insisting().RunScript(t.Context(), redis.NewScript("return 1"), nil).Err())
	require.Error(t, w.Ready(t.Context()))
	require.GreaterOrEqual(t, w.sent(t), before+3)
	thaw()
	require.NoError(t, w.Insisting().Ping(t.Context()).Err(), "however long it has not answered")
	require.NoError(t, w.Ready(t.Context()))
	require.Same(t, w.Insisting(), w.Insisting().Insisting())
}

func TestAServerThatRefusesIsNotLeftAlone(t *testing.T) {
	t.Parallel()
	server := testkit.RedisServer(t)
	w := watch(t, server)
	server.Stop()
	for range 20 {
		err := w.Ping(t.Context()).Err()
		require.Error(t, err)
		require.NotErrorIs(t, err, gobreaker.ErrOpenState, "to be refused costs nobody time")
	}
}

func TestWhoLeavesEarlySaysNothingAboutTheServer(t *testing.T) {
	t.Parallel()
	server := testkit.RedisServer(t)
	w := watch(t, server)
	ended, end := context.WithCancel(t.Context())
	end()
	late, release := context.WithDeadline(t.Context(), time.Now())
	defer release()
	for range 20 {
		require.ErrorIs(t, w.Ping(ended).Err(), context.Canceled)
		require.ErrorIs(t, w.Ping(late).Err(), context.DeadlineExceeded)
	}
	require.NoError(t, w.Ping(t.Context()).Err())

	testkit.Freeze(t, server)
	require.Eventually(t, func() bool {
		leaving, leave := context.WithCancel(t.Context())
		time.AfterFunc(5*time.Millisecond, leave)
		_ = w.Ping(leaving).Err()
		return errors.Is(w.Ping(t.Context()).Err(), gobreaker.ErrOpenState)
	}, 15*time.Second, time.Millisecond, "nor that it is well")
}
