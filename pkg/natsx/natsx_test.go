package natsx_test

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/natsx"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/pkg/testkit"
)

func setup(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestConnectSurvivesAServerThatIsAwayAtTheStart(t *testing.T) {
	t.Parallel()
	ctx := setup(t)
	server := testkit.NATSServer(t)
	server.Stop()

	conn := testkit.ConnectNATS(t, server.URL())
	require.False(t, conn.Connected())
	require.Error(t, conn.Ready(ctx))
	declared := make(chan error, 1)
	go func() { declared <- conn.DeclareAudit(ctx) }()

	require.NoError(t, server.Restart())
	require.NoError(t, <-declared, "declaring waits for the server")
	require.Eventually(t, conn.Connected, 5*time.Second, 5*time.Millisecond)
	require.NoError(t, conn.Ready(ctx))
}

func TestOnConnectTellsOfEveryNewConnectionUntilItIsRemoved(t *testing.T) {
	t.Parallel()
	ctx := setup(t)
	server := testkit.NATSServer(t)
	conn := testkit.ConnectNATS(t, server.URL())
	require.Eventually(t, conn.Connected, 5*time.Second, 5*time.Millisecond)
	require.NoError(t, conn.Ready(ctx))

	told, removed := make(chan struct{}, 10), make(chan struct{}, 10)
	conn.OnConnect(func() { told <- struct{}{} })
	remove := conn.OnConnect(func() { removed <- struct{}{} })
	remove()
	require.NoError(t, server.Restart())
	select {
	case <-told:
	case <-ctx.Done():
		t.Fatal("nobody told of the new connection")
	}
	require.Empty(t, removed)
}

func TestPublishingFailsAtOnceWhileTheServerIsAway(t *testing.T) {
	t.Parallel()
	ctx := setup(t)
	server := testkit.NATSServer(t)
	conn := testkit.ConnectNATS(t, server.URL())
	require.NoError(t, conn.DeclareAudit(ctx))
	server.Stop()
	require.Eventually(t, func() bool { return !conn.Connected() }, 5*time.Second, 5*time.Millisecond)

	start := time.Now()
	_, err := conn.JS().Publish(ctx, "audit.test", nil)
	require.Error(t, err, "a message that waits in memory is lost with the process")
	require.Less(t, time.Since(start), time.Second)
}

func TestWhetherThereIsAConnectionIsKnownWithoutWaitingForAServerThatSaysNothing(t *testing.T) {
	t.Parallel()
	ctx := setup(t)
	server := testkit.NATSServer(t)
	conn := testkit.ConnectNATS(t, server.URL())
	require.True(t, conn.Connected())
	address := strings.TrimPrefix(server.URL(), "nats://")
	server.Stop()
	silent, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	require.NoError(t, err)
	defer func() { _ = silent.Close() }()
	accepted, err := silent.Accept()
	require.NoError(t, err)
	defer func() { _ = accepted.Close() }()

	answered := make(chan bool, 1)
	go func() { answered <- conn.Connected() || conn.Ready(ctx) == nil }()
	select {
	case up := <-answered:
		require.False(t, up)
	case <-time.After(time.Second): // the library waits for two, and holds its lock meanwhile
		t.Fatal("who asks waits with the library for the server's first word")
	}
}

func TestWhatNoStreamTakesIsToldAtOnceAndSentOnce(t *testing.T) {
	t.Parallel()
	ctx := setup(t)
	conn := testkit.ConnectNATS(t, testkit.NATSServer(t).URL())
	require.NoError(t, conn.Ready(ctx))
	sent := conn.NC().Stats().OutMsgs
	ack, err := conn.PublishOnce(&nats.Msg{Subject: "audit.token.token.issued"})
	require.NoError(t, err)
	_, err = natsx.Acknowledged(ctx, ack)
	require.ErrorIs(t, err, jetstream.ErrNoStreamResponse)
	require.Equal(t, sent+1, conn.NC().Stats().OutMsgs)
}

func TestAnAcknowledgementThatIsThereIsNeverTooLate(t *testing.T) {
	t.Parallel()
	ctx := setup(t)
	conn := testkit.NATS(t)
	ended, cancel := context.WithCancel(ctx)
	cancel()
	for range 50 { // what is ready at once is chosen from by chance
		ack, err := conn.PublishOnce(&nats.Msg{Subject: "audit.token.token.issued"})
		require.NoError(t, err)
		<-conn.JS().PublishAsyncComplete()
		_, err = natsx.Acknowledged(ended, ack)
		require.NoError(t, err)
	}
}

func TestAuditKeepsAMessageUntilItIsAcknowledgedAndTakesAnIDOnce(t *testing.T) {
	t.Parallel()
	ctx := setup(t)
	conn := testkit.NATS(t)
	for range 2 {
		_, err := conn.JS().Publish(ctx, "audit.token.token.issued", []byte("x"), jetstream.WithMsgID("one"))
		require.NoError(t, err)
	}
	stream, err := conn.JS().Stream(ctx, natsx.AuditStream)
	require.NoError(t, err)
	require.EqualValues(t, 1, messages(ctx, t, stream))

	consumer, err := stream.CreateConsumer(ctx, jetstream.ConsumerConfig{Durable: "audit", AckPolicy: jetstream.AckExplicitPolicy})
	require.NoError(t, err)
	msg, err := consumer.Next(jetstream.FetchMaxWait(5 * time.Second))
	require.NoError(t, err)
	require.EqualValues(t, 1, messages(ctx, t, stream))
	require.NoError(t, msg.DoubleAck(ctx))
	require.EqualValues(t, 0, messages(ctx, t, stream))
}

func TestLifecycleKeepsTheNewestMessageOfEachSubject(t *testing.T) {
	t.Parallel()
	ctx := setup(t)
	conn := testkit.NATS(t)
	for _, state := range []string{"old", "new"} {
		for _, subject := range []string{"lifecycle.agent.a", "lifecycle.agent.b"} {
			_, err := conn.JS().Publish(ctx, subject, []byte(state))
			require.NoError(t, err)
		}
	}
	stream, err := conn.JS().Stream(ctx, natsx.LifecycleStream)
	require.NoError(t, err)
	require.EqualValues(t, 2, messages(ctx, t, stream))
	last, err := stream.GetLastMsgForSubject(ctx, "lifecycle.agent.a")
	require.NoError(t, err)
	require.Equal(t, "new", string(last.Data))
}

func TestStreamsOutliveARestartAndAreDeclaredAgainWithoutHarm(t *testing.T) {
	t.Parallel()
	ctx := setup(t)
	server := testkit.NATSServer(t)
	conn := testkit.ConnectNATS(t, server.URL())
	require.NoError(t, conn.DeclareAudit(ctx))
	_, err := conn.JS().Publish(ctx, "audit.test", []byte("kept"))
	require.NoError(t, err)

	require.NoError(t, server.Restart())
	require.NoError(t, conn.DeclareAudit(ctx))
	stream, err := conn.JS().Stream(ctx, natsx.AuditStream)
	require.NoError(t, err)
	require.EqualValues(t, 1, messages(ctx, t, stream))
}

func TestDeclareEndsWithItsContextAndSaysWhy(t *testing.T) {
	t.Parallel()
	conn := testkit.ConnectNATS(t, "nats://127.0.0.1:1")
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, conn.DeclareLifecycle(ctx), context.DeadlineExceeded)
}

func TestConnectRefusesABadURLWithoutRepeatingIt(t *testing.T) {
	t.Parallel()
	_, err := natsx.Connect(natsx.Config{URL: "nats://user:hunter2@host:port"}, "test", telemetry.Discard("test"))
	require.Error(t, err)
	require.NotContains(t, err.Error(), "hunter2")
}

func TestConfigRefusesWhatIsNoURLWithoutRepeatingIt(t *testing.T) {
	t.Parallel()
	for _, good := range []config.Secret{
		"", "nats://host", "nats://user:pw@host:4222", "tls://host:4222", "host:4222", "nats://a:1, nats://b:2", "ws://[::1]:80",
	} {
		require.NoError(t, natsx.Config{URL: good, Replicas: 1}.Validate(), good.Reveal())
	}
	for _, bad := range []config.Secret{"::", "http://hunter2", "nats://hunter2:port", "nats://", "nats://a,,nats://hunter2", "nats://:4222"} {
		err := natsx.Config{URL: bad, Replicas: 1}.Validate()
		require.ErrorContains(t, err, "NATS_URL", bad.Reveal())
		require.NotContains(t, err.Error(), "hunter2")
	}
}

func TestConfigRefusesCopiesThatNoClusterKeeps(t *testing.T) {
	t.Parallel()
	for replicas, good := range map[int]bool{0: false, 1: true, 3: true, 5: true, 6: false} {
		require.Equal(t, good, natsx.Config{Replicas: replicas}.Validate() == nil, "%d copies", replicas)
	}
}

func messages(ctx context.Context, t *testing.T, stream jetstream.Stream) uint64 {
	t.Helper()
	info, err := stream.Info(ctx)
	require.NoError(t, err)
	return info.State.Msgs
}
