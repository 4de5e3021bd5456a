package redisx_test

import (
	"bytes"
	"context"
	"net"
	"net/url"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/redisx"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/pkg/testkit"
)

func TestConfigRefusesWhatIsNoURLWithoutRepeatingIt(t *testing.T) {
	t.Parallel()
	for _, good := range []config.Secret{"", "redis://host", "rediss://:pw@host:6380/1"} {
		require.NoError(t, redisx.Config{URL: good}.Validate(), good.Reveal())
	}
	for _, bad := range []config.Secret{"hunter2", "http://hunter2", "redis://:hunter2@host/x"} {
		err := redisx.Config{URL: bad}.Validate()
		require.ErrorContains(t, err, "REDIS_URL", bad.Reveal())
		require.NotContains(t, err.Error(), "hunter2")
	}
}

func TestOpenRefusesABadURLWithoutRepeatingIt(t *testing.T) {
	t.Parallel()
	_, err := redisx.Open(redisx.Config{URL: "http://user:hunter2@redis"}, telemetry.Discard("test"))
	require.Error(t, err)
	require.NotContains(t, err.Error(), "hunter2")
}

func TestKeyPutsThePrefixOfTheDeploymentBeforeTheParts(t *testing.T) {
	t.Parallel()
	client, err := redisx.Open(redisx.Config{URL: "redis://127.0.0.1:1", KeyPrefix: "blue:"}, nil)
	require.NoError(t, err)
	defer func() { _ = client.Close() }()
	require.Equal(t, "blue:rate:x", client.Key("rate", "x"))
}

func TestRunIDFollowsTheServer(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	server := testkit.RedisServer(t)
	client := testkit.OpenRedis(t, server.URL())
	require.Empty(t, client.RunID(), "nothing was asked yet")
	require.NoError(t, client.Ready(ctx))
	first := client.RunID()
	require.Len(t, first, 40)

	server.Stop()
	require.Error(t, client.Ready(ctx))
	require.NoError(t, server.Restart(ctx))
	require.Eventually(t, func() bool { return client.Ready(ctx) == nil }, 10*time.Second, 20*time.Millisecond)
	require.Len(t, client.RunID(), 40)
	require.NotEqual(t, first, client.RunID(), "a restarted server is another one")
}

func TestAServerThatTellsNoRunIDCanBeUsed(t *testing.T) {
	t.Parallel()
	server := miniredis.RunT(t)
	client := testkit.OpenRedis(t, "redis://"+server.Addr())
	require.NoError(t, client.Ready(context.Background()))
	require.Empty(t, client.RunID())
}

func TestAUserWithoutINFOIsWarnedAbout(t *testing.T) {
	t.Parallel()
	server := testkit.RedisServer(t)
	admin := testkit.OpenRedis(t, server.URL())
	require.NoError(t, admin.Do(context.Background(), "ACL", "SETUSER", "blind", "on", ">secret", "~*", "+@all", "-info").Err())
	address, err := url.Parse(server.URL())
	require.NoError(t, err)
	address.User = url.UserPassword("blind", "secret")
	var log bytes.Buffer
	tel := telemetry.Discard("test")
	tel.Log = telemetry.NewLogger(&log, "test", "info")
	client, err := redisx.Open(redisx.Config{URL: config.Secret(address.String())}, tel)
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })

	require.NoError(t, client.Ready(context.Background()))
	require.Empty(t, client.RunID())
	require.Contains(t, log.String(), "redis refuses INFO")
	require.NotContains(t, log.String(), "secret")
}

func TestAServerThatHangsIsGivenUpWithinASecond(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = silent.Close() }()
	client := testkit.OpenRedis(t, "redis://"+silent.Addr().String())
	start := time.Now()
	require.Error(t, client.Ready(context.Background()))
	require.Less(t, time.Since(start), 2*time.Second)
}

func TestCommandsAndPipelinesAreTimed(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	tel := telemetry.Discard("test")
	server := miniredis.RunT(t)
	client, err := redisx.Open(redisx.Config{URL: config.Secret("redis://" + server.Addr()), KeyPrefix: "t:"}, tel)
	require.NoError(t, err)
	defer func() { _ = client.Close() }()

	require.NoError(t, client.Set(ctx, client.Key("a"), 1, 0).Err())
	pipe := client.Pipeline()
	pipe.Get(ctx, client.Key("a"))
	pipe.Incr(ctx, client.Key("a"))
	_, err = pipe.Exec(ctx)
	require.NoError(t, err)

	labels := map[string]bool{}
	families, err := tel.Metrics.Registry.Gather()
	require.NoError(t, err)
	for _, f := range families {
		if f.GetName() != "agentidp_redis_command_duration_seconds" {
			continue
		}
		for _, m := range f.GetMetric() {
			labels[m.GetLabel()[0].GetValue()] = true
		}
	}
	require.True(t, labels["set"], "labels: %v", labels)
	require.True(t, labels["pipeline"], "labels: %v", labels)
	require.Positive(t, testutil.CollectAndCount(tel.Metrics.RedisCommand))
}

func TestScriptsOfConcurrentCallersShareRoundTripsAndKeepTheirAnswers(t *testing.T) {
	t.Parallel()
	const callers = 200
	ctx := context.Background()
	server := testkit.RedisServer(t)
	client := testkit.OpenRedis(t, server.URL())
	double := redis.NewScript("if ARGV[1] == '13' then return redis.error_reply('unlucky') end return ARGV[1] * 2")
	reads := func() int {
		info, err := client.InfoMap(ctx, "stats").Result()
		require.NoError(t, err)
		n, err := strconv.Atoi(info["Stats"]["total_reads_processed"])
		require.NoError(t, err)
		return n
	}
	require.NoError(t, client.RunScript(ctx, double, nil, 4).Err(), "a server that does not know the script is given it")
	before := reads()
	var group sync.WaitGroup
	for i := range callers {
		group.Go(func() {
			n, err := client.RunScript(ctx, double, []string{client.Key("k")}, i).Int()
			if i == 13 {
				if err == nil {
					t.Error("the error of one command is its caller's")
				}
			} else if err != nil || n != 2*i {
				t.Errorf("%d: %d, %v", i, n, err)
			}
		})
	}
	group.Wait()
	require.Less(t, reads()-before, callers, "less than one read each")

	require.NoError(t, client.ScriptFlush(ctx).Err())
	n, err := client.RunScript(ctx, double, nil, 4).Int()
	require.NoError(t, err, "a server that lost the script is given it again")
	require.Equal(t, 8, n)

	ended, end := context.WithCancel(ctx)
	end()
	require.Error(t, client.RunScript(ended, double, nil, 4).Err())
	server.Stop()
	require.Error(t, client.RunScript(ctx, double, nil, 4).Err())
}
