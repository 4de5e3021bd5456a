package natsx_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/natsx"
	"github.com/sentryagent/agentidp/pkg/telemetry"
)

// users are those of the configuration that is deployed; each one's password is "p" and its name.
func users() []string { return []string{"registry", "credentials", "token", "audit"} }

// deployed runs a server with the configuration that Docker Compose and the in-cluster component have, and connects as each of its users.
func deployed(t *testing.T) (conns map[string]*natsx.Conn, urls map[string]string) {
	t.Helper()
	for _, user := range users() {
		t.Setenv("NATS_"+strings.ToUpper(user)+"_PASSWORD", "p"+user)
	}
	opts, err := server.ProcessConfigFile("../../deploy/k8s/components/in-cluster/nats.conf")
	require.NoError(t, err)
	require.Len(t, opts.Users, len(users()))
	opts.Host, opts.Port, opts.HTTPPort, opts.StoreDir, opts.NoLog, opts.NoSigs = "127.0.0.1", -1, 0, t.TempDir(), true, true
	s, err := server.NewServer(opts)
	require.NoError(t, err)
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	require.True(t, s.ReadyForConnections(20*time.Second))

	_, err = nats.Connect(s.ClientURL())
	require.ErrorIs(t, err, nats.ErrAuthorization, "nobody comes in without a password")
	conns, urls = map[string]*natsx.Conn{}, map[string]string{}
	for _, user := range users() {
		url := strings.Replace(s.ClientURL(), "nats://", "nats://"+user+":p"+user+"@", 1)
		conn, err := natsx.Connect(natsx.Config{URL: config.Secret(url), Replicas: 1}, user, telemetry.Discard(user))
		require.NoError(t, err)
		t.Cleanup(conn.Close)
		require.Eventually(t, conn.Connected, 10*time.Second, 5*time.Millisecond)
		conns[user], urls[user] = conn, url
	}
	return conns, urls
}

func TestEachServiceHasItsOwnSubjectsAndNoOthers(t *testing.T) {
	ctx := setup(t)
	conns, urls := deployed(t)
	require.NoError(t, conns["audit"].DeclareAudit(ctx))
	require.NoError(t, conns["audit"].DeclareOnward(ctx, 1<<20))
	require.NoError(t, conns["token"].DeclareLifecycle(ctx))
	require.NoError(t, conns["credentials"].DeclareLifecycle(ctx), "whoever comes first")

	own := map[string][]string{
		"registry":    {"audit.registry.agent.created", "lifecycle.agent.1"},
		"credentials": {"audit.credentials.credential.generated", "lifecycle.credential.1"},
		"token":       {"audit.token.token.issued", "audit.token.batch"},
		"audit":       {"auditlog.token.token.issued"},
	}
	for _, user := range users() {
		for owner, subjects := range own {
			for _, subject := range subjects {
				err := publish(ctx, conns[user], subject)
				if owner == user {
					require.NoError(t, err, "%s on %s", user, subject)
				} else {
					require.Error(t, err, "%s on %s", user, subject)
				}
			}
		}
	}

	consumers := map[string]struct{ stream, durable string }{
		"credentials": {natsx.LifecycleStream, "credentials"},
		"token":       {natsx.LifecycleStream, "token-cutoffs"},
		"audit":       {natsx.AuditStream, "audit"},
	}
	for _, user := range users() {
		for owner, c := range consumers {
			err := consume(ctx, conns[user], c.stream, c.durable)
			if owner == user {
				require.NoError(t, err, "%s reads %s", user, c.stream)
			} else {
				require.Error(t, err, "%s reads %s as %s", user, c.stream, c.durable)
			}
		}
	}
	for _, user := range users() {
		require.Error(t, remove(ctx, conns[user]), "%s removes streams", user)
		for _, subject := range []string{"_INBOX.>", "audit.>", "auditlog.>", "$JS.>", ">"} {
			require.ErrorIs(t, subscribe(urls[user], subject), nats.ErrPermissionViolation, "%s hears %s", user, subject)
		}
	}
	require.NoError(t, subscribe(urls["token"], "lifecycle.>"))
}

// publish waits for the stream to have the message.
func publish(ctx context.Context, conn *natsx.Conn, subject string) error {
	ctx, cancel := context.WithTimeout(ctx, refusedAfter)
	defer cancel()
	_, err := conn.JS().Publish(ctx, subject, []byte("{}"), jetstream.WithRetryAttempts(0))
	return err
}

// refusedAfter is how long a call that the server silently drops is waited for.
const refusedAfter = 250 * time.Millisecond

// consume declares a consumer, takes a message from it and acknowledges that.
func consume(ctx context.Context, conn *natsx.Conn, stream, durable string) error {
	ask, cancel := context.WithTimeout(ctx, refusedAfter)
	defer cancel()
	cfg := jetstream.ConsumerConfig{Durable: durable, AckPolicy: jetstream.AckExplicitPolicy}
	if stream == natsx.LifecycleStream {
		cfg.FilterSubject = "lifecycle.agent.*"
	}
	consumer, err := conn.JS().CreateOrUpdateConsumer(ask, stream, cfg)
	if err != nil {
		return err
	}
	msg, err := consumer.Next(jetstream.FetchMaxWait(5 * time.Second))
	if err != nil {
		return err
	}
	take, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return msg.DoubleAck(take)
}

func remove(ctx context.Context, conn *natsx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, refusedAfter)
	defer cancel()
	return conn.JS().DeleteStream(ctx, natsx.AuditStream)
}

// subscribe answers what the server says to a subscription.
func subscribe(url, subject string) error {
	nc, err := nats.Connect(url, nats.PermissionErrOnSubscribe(true))
	if err != nil {
		return err
	}
	defer nc.Close()
	sub, err := nc.SubscribeSync(subject)
	if err != nil {
		return err
	}
	// A refusal comes before the answer to the flush.
	if err := nc.FlushTimeout(5 * time.Second); err != nil {
		return err
	}
	if _, err = sub.NextMsg(time.Millisecond); !errors.Is(err, nats.ErrTimeout) {
		return err
	}
	return nil
}
