package outbox_test

import (
	"bytes"
	"context"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/natsx"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/pkg/testkit"
)

// lines is a log that can be read while it is written.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func TestAStreamWithoutRoomIsWaitedForLikeOneThatIsAway(t *testing.T) {
	t.Parallel()
	b := setup(t)
	server := testkit.NATSServer(t)
	b.conn = testkit.ConnectNATS(t, server.URL())
	require.NoError(t, b.conn.DeclareAudit(b.ctx))
	resize(b.ctx, t, b.conn, 5)
	log := &lines{}
	b.tel = telemetry.Discard("test")
	b.tel.Log = telemetry.NewLogger(io.Writer(log), "test", "info")

	msgs := messages("audit.registry.agent.created", 200)
	b.append(t, msgs...)
	b.relay(t, b.db, b.conn)
	require.Eventually(t, func() bool { return b.rows(t) == 195 }, patient, often)
	require.Eventually(t, func() bool { return strings.Contains(log.String(), "outbox waits") }, patient, often)
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
