package lifecycle_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/lifecycle"
	"github.com/sentryagent/agentidp/pkg/natsx"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/pkg/testkit"
)

const (
	patient = 20 * time.Second
	often   = 5 * time.Millisecond
)

// heard is what a watcher or a consumer was told.
type heard struct {
	mu          sync.Mutex
	agents      []lifecycle.AgentChanged
	credentials []lifecycle.CredentialChanged
	gaps        int
}

func (h *heard) watcher() lifecycle.Watcher {
	return lifecycle.Watcher{
		Agent:      func(c lifecycle.AgentChanged) { h.locked(func() { h.agents = append(h.agents, c) }) },
		Credential: func(c lifecycle.CredentialChanged) { h.locked(func() { h.credentials = append(h.credentials, c) }) },
		Gap:        func() { h.locked(func() { h.gaps++ }) },
	}
}

func (h *heard) locked(do func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	do()
}

func (h *heard) counts() (agents, credentials, gaps int) {
	h.locked(func() { agents, credentials, gaps = len(h.agents), len(h.credentials), h.gaps })
	return agents, credentials, gaps
}

func (h *heard) gapsReach(t *testing.T, n int) {
	t.Helper()
	require.Eventually(t, func() bool { _, _, gaps := h.counts(); return gaps >= n }, patient, often)
}

func setup(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patient)
	t.Cleanup(cancel)
	return ctx
}

// background runs until the end of the test, and must return nil then.
func background(ctx context.Context, t *testing.T, run func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-done)
	})
	t.Cleanup(stop)
	return stop
}

func change(agent uuid.UUID, revision int64) lifecycle.AgentChanged {
	actor := uuid.MustParse("018f4b1e-0000-7000-8000-000000000001")
	return lifecycle.AgentChanged{
		AgentID: agent, Status: "suspended", Revision: revision,
		TokensValidAfter: time.Date(2026, 1, 2, 3, 4, 5, 6_000_000, time.UTC),
		OccurredAt:       time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC),
		Origin:           auditevent.Origin{ActorID: &actor, IPAddress: "192.0.2.1", UserAgent: "curl", RequestID: "r-1"},
	}
}

func publish(ctx context.Context, t *testing.T, conn *natsx.Conn, c lifecycle.AgentChanged) {
	t.Helper()
	msg, err := c.Message(uuid.New())
	require.NoError(t, err)
	require.Equal(t, "lifecycle.agent."+c.AgentID.String(), msg.Subject)
	// A client may think that it is connected to a server that was just restarted; then what it sends is lost. The
	// same id makes several tries one message.
	require.Eventually(t, func() bool {
		try, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := conn.JS().Publish(try, msg.Subject, msg.Payload, jetstream.WithMsgID(msg.ID.String()))
		return err == nil
	}, patient, often)
}

func TestWatchTellsEveryReplicaOfEveryChangeFromNowOn(t *testing.T) {
	t.Parallel()
	ctx, conn := setup(t), testkit.NATS(t)
	agent := uuid.New()
	publish(ctx, t, conn, change(agent, 1)) // before anybody watches

	replicas := []*heard{{}, {}}
	for _, h := range replicas {
		other := testkit.ConnectNATS(t, conn.NC().ConnectedUrl())
		require.Eventually(t, other.Connected, patient, often)
		background(ctx, t, func(ctx context.Context) error {
			return lifecycle.Watch(ctx, other, telemetry.Discard("test"), h.watcher())
		})
		h.gapsReach(t, 1)
	}
	publish(ctx, t, conn, change(agent, 2))
	credential := lifecycle.CredentialChanged{AgentID: agent, CredentialID: uuid.New(), OccurredAt: time.Unix(1, 0).UTC()}
	msg, err := credential.Message(uuid.New())
	require.NoError(t, err)
	require.Equal(t, "lifecycle.credential."+agent.String(), msg.Subject)
	_, err = conn.JS().Publish(ctx, msg.Subject, msg.Payload)
	require.NoError(t, err)

	for _, h := range replicas {
		require.Eventually(t, func() bool { a, c, _ := h.counts(); return a == 1 && c == 1 }, patient, often)
		require.Equal(t, []lifecycle.AgentChanged{change(agent, 2)}, h.agents)
		require.Equal(t, []lifecycle.CredentialChanged{credential}, h.credentials)
	}
}

func TestWatchTellsOfAGapAfterEveryNewConnection(t *testing.T) {
	t.Parallel()
	ctx, server := setup(t), testkit.NATSServer(t)
	server.Stop()
	conn := testkit.ConnectNATS(t, server.URL())
	h := &heard{}
	background(ctx, t, func(ctx context.Context) error {
		return lifecycle.Watch(ctx, conn, telemetry.Discard("test"), h.watcher())
	})
	h.gapsReach(t, 1)
	require.NoError(t, server.Restart())
	h.gapsReach(t, 2)
	require.NoError(t, conn.DeclareLifecycle(ctx))
	publish(ctx, t, conn, change(uuid.New(), 1))
	require.Eventually(t, func() bool { a, _, _ := h.counts(); return a == 1 }, patient, often)
	require.NoError(t, server.Restart())
	h.gapsReach(t, 3)
}

func TestAChangeThatCannotBeReadIsAGap(t *testing.T) {
	t.Parallel()
	ctx, conn := setup(t), testkit.NATS(t)
	h := &heard{}
	background(ctx, t, func(ctx context.Context) error {
		return lifecycle.Watch(ctx, conn, telemetry.Discard("test"), h.watcher())
	})
	h.gapsReach(t, 1)
	_, _, before := h.counts()
	id := uuid.NewString()
	for _, m := range [][2]string{
		{"lifecycle.agent." + id, "not json"},
		{"lifecycle.agent." + id, `{"agentId":"` + uuid.NewString() + `","status":"active"}`},
		{"lifecycle.credential." + id, "[]"},
		{"lifecycle.credential." + id, "{}"},
		{"lifecycle.token." + id, "of another kind"},
	} {
		require.NoError(t, conn.NC().Publish(m[0], []byte(m[1])))
	}
	h.gapsReach(t, before+4)
	agents, credentials, _ := h.counts()
	require.Zero(t, agents+credentials)
}

func TestAWatcherThatIsTooSlowGetsAGap(t *testing.T) {
	t.Parallel()
	ctx, conn := setup(t), testkit.NATS(t)
	release, blocked := make(chan struct{}), make(chan struct{})
	var block sync.Once
	h := &heard{}
	w := h.watcher()
	w.Agent = func(lifecycle.AgentChanged) { block.Do(func() { close(blocked); <-release }) }
	background(ctx, t, func(ctx context.Context) error { return lifecycle.Watch(ctx, conn, telemetry.Discard("test"), w) })
	h.gapsReach(t, 1)
	_, _, before := h.counts()
	msg, err := change(uuid.New(), 1).Message(uuid.New())
	require.NoError(t, err)
	require.NoError(t, conn.NC().Publish(msg.Subject, msg.Payload))
	<-blocked
	for range 17_000 { // more than may wait
		require.NoError(t, conn.NC().Publish(msg.Subject, msg.Payload))
	}
	require.NoError(t, conn.Ready(ctx))
	close(release)
	h.gapsReach(t, before+1)
}

func TestConsumeAgentsSharesTheNewestStatesAndTriesAgainWhatFailed(t *testing.T) {
	t.Parallel()
	ctx, conn := setup(t), testkit.NATS(t)
	agents := make([]uuid.UUID, 30)
	for i := range agents {
		agents[i] = uuid.New()
		publish(ctx, t, conn, change(agents[i], 1))
		publish(ctx, t, conn, change(agents[i], 2)) // the state that counts
	}
	_, err := conn.JS().Publish(ctx, "lifecycle.agent."+uuid.NewString(), []byte("cannot be read, and blocks nobody"))
	require.NoError(t, err)

	var mu sync.Mutex
	tries, handled := map[uuid.UUID]int{}, map[uuid.UUID]lifecycle.AgentChanged{}
	handle := func(_ context.Context, c lifecycle.AgentChanged) error {
		mu.Lock()
		defer mu.Unlock()
		tries[c.AgentID]++
		if c.AgentID == agents[0] && tries[c.AgentID] < 3 {
			return errors.New("database is away")
		}
		handled[c.AgentID] = c
		return nil
	}
	for range 2 {
		background(ctx, t, func(ctx context.Context) error {
			return lifecycle.ConsumeAgents(ctx, conn, telemetry.Discard("test"), "token-agents", handle)
		})
	}
	require.Eventually(t, func() bool { mu.Lock(); defer mu.Unlock(); return len(handled) == len(agents) }, patient, often)
	mu.Lock()
	defer mu.Unlock()
	for i, agent := range agents {
		require.Equal(t, change(agent, 2), handled[agent])
		want := 1
		if i == 0 {
			want = 3
		}
		require.Equal(t, want, tries[agent], "the replicas share, and do not repeat what was done")
	}
}

func TestConsumeAgentsGoesOnAfterARestartOfTheConsumerAndOfNATS(t *testing.T) {
	t.Parallel()
	ctx, server := setup(t), testkit.NATSServer(t)
	server.Stop()
	conn := testkit.ConnectNATS(t, server.URL())
	h := &heard{}
	consume := func(ctx context.Context) error {
		return lifecycle.ConsumeAgents(ctx, conn, telemetry.Discard("test"), "token-agents",
			func(_ context.Context, c lifecycle.AgentChanged) error { h.watcher().Agent(c); return nil })
	}
	has := func(n int) func() bool { return func() bool { a, _, _ := h.counts(); return a == n } }

	stop := background(ctx, t, consume)
	require.NoError(t, server.Restart())
	require.NoError(t, conn.DeclareLifecycle(ctx))
	publish(ctx, t, conn, change(uuid.New(), 1))
	require.Eventually(t, has(1), patient, often)

	require.NoError(t, server.Restart())
	require.Eventually(t, conn.Connected, patient, often)
	publish(ctx, t, conn, change(uuid.New(), 1))
	require.Eventually(t, has(2), patient, often)

	stop()
	publish(ctx, t, conn, change(uuid.New(), 1)) // while nobody consumes
	background(ctx, t, consume)
	require.Eventually(t, has(3), patient, often)

	require.NoError(t, conn.JS().DeleteStream(ctx, natsx.LifecycleStream)) // its data is lost
	require.Eventually(t, func() bool {
		msg, err := change(uuid.New(), 1).Message(uuid.New())
		require.NoError(t, err)
		_, err = conn.JS().Publish(ctx, msg.Subject, msg.Payload)
		return err == nil
	}, patient, 50*time.Millisecond, "the stream is declared again")
	require.Eventually(t, has(4), patient, often)
}
