package outbox_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/natsx"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/pkg/testkit"
)

func TestAStreamWithoutRoomIsWaitedForLikeOneThatIsAway(t *testing.T) {
	t.Parallel()
	b := setup(t)
	server := testkit.NATSServer(t)
	b.conn = testkit.ConnectNATS(t, server.URL())
	require.NoError(t, b.conn.DeclareAudit(b.ctx))
	resize(b.ctx, t, b.conn, 5)
	log := &testkit.Log{}
	b.tel = telemetry.Discard("test")
	b.tel.Log = telemetry.NewLogger(log, "test", "info")

	msgs := messages("audit.registry.agent.created", 200)
	b.append(t, msgs...)
	b.relay(t, b.db, b.conn)
	require.Eventually(t, func() bool { return b.rows(t) == 195 }, patient, often)
	require.Eventually(t, func() bool { return log.Count("outbox waits") > 0 }, patient, often)
	require.NotContains(t, log.String(), "refuses a message", "one line and not one for each message")

	full := time.Now()
	resize(b.ctx, t, b.conn, -1)
	b.emptied(t)
	require.Less(t, time.Since(full), 25*time.Second, "messages that nobody refused for themselves were postponed")
	b.requireOnce(t, msgs)
}

func resize(ctx context.Context, t *testing.T, conn *natsx.Conn, most int64) {
	t.Helper()
	stream, err := conn.JS().Stream(ctx, natsx.AuditStream)
	require.NoError(t, err)
	config := stream.CachedInfo().Config
	config.MaxMsgs = most
	_, err = conn.JS().UpdateStream(ctx, config)
	require.NoError(t, err)
}
