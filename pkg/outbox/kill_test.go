package outbox_test

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/natsx"
	"github.com/sentryagent/agentidp/pkg/outbox"
	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/pkg/telemetry"
)

const (
	childDatabase = "OUTBOX_TEST_CHILD_DATABASE"
	childNATS     = "OUTBOX_TEST_CHILD_NATS"
)

// TestRelayProcess is a relay as a process, which the test below kills. By itself it does nothing.
func TestRelayProcess(t *testing.T) {
	if os.Getenv(childDatabase) == "" {
		t.Skip("only as a child of the test that kills relays")
	}
	tel := telemetry.Discard("child")
	db, err := pgdb.Open(context.Background(), pgdb.Config{URL: config.Secret(os.Getenv(childDatabase)), MaxConns: 4}, tel)
	require.NoError(t, err)
	conn, err := natsx.Connect(natsx.Config{URL: config.Secret(os.Getenv(childNATS)), Replicas: 1}, "child", tel)
	require.NoError(t, err)
	_, _ = os.Stdout.WriteString("running\n")
	relay := outbox.New(schema).NewRelay(outbox.RelayConfig{DB: db, Conn: conn, Telemetry: tel, Clock: time.Now, Lease: time.Second})
	_ = relay.Run(context.Background())
}

func TestRelaysThatAreKilledUnderLoadLoseAndDoubleNothing(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var msgs []outbox.Message
	for round := range 3 {
		child := startRelayProcess(t, b)
		batch := messages("audit.registry.agent.created", 1500)
		msgs = append(msgs, batch...)
		for chunk := range chunks(batch, 25) {
			b.append(t, chunk...)
		}
		// Somewhere in the middle: a part is published, a part is in flight, a part still waits.
		published := uint64(len(msgs)) - 1400 + uint64(round)*400
		require.Eventually(t, func() bool { return b.inStream(t) >= published }, patient, time.Millisecond)
		require.NoError(t, child.Process.Kill())
		_ = child.Wait()
	}
	require.NotZero(t, b.rows(t), "the relays were killed too late to prove anything")
	b.relay(t, b.db, b.conn)
	b.emptied(t)
	b.requireOnce(t, msgs)
}

func (b *bundle) inStream(t *testing.T) uint64 {
	t.Helper()
	stream, err := b.conn.JS().Stream(b.ctx, natsx.AuditStream)
	require.NoError(t, err)
	return stream.CachedInfo().State.Msgs
}

func startRelayProcess(t *testing.T, b *bundle) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(b.ctx, os.Args[0], "-test.run=^TestRelayProcess$") // #nosec G204 -- this very test binary
	cmd.Env = append(os.Environ(), childDatabase+"="+b.db.Config().ConnString(), childNATS+"="+b.conn.NC().ConnectedUrl())
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "running\n", line)
	return cmd
}
