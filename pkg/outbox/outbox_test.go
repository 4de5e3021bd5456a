package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/natsx"
	"github.com/sentryagent/agentidp/pkg/outbox"
	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/pkg/testkit"
)

const (
	schema  = "registry"
	patient = 90 * time.Second
	often   = 10 * time.Millisecond
)

type bundle struct {
	ctx  context.Context
	db   *pgdb.DB
	conn *natsx.Conn
	out  *outbox.Outbox
	tel  *telemetry.Telemetry
}

func setup(t *testing.T) *bundle {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patient)
	t.Cleanup(cancel)
	return &bundle{ctx: ctx, db: testkit.DB(t, schema), conn: testkit.NATS(t), out: outbox.New(schema), tel: telemetry.Discard("test")}
}

// relay runs until the returned func is called or the test ends.
func (b *bundle) relay(t *testing.T, db *pgdb.DB, conn *natsx.Conn) (stop func()) {
	t.Helper()
	return b.run(t, outbox.RelayConfig{DB: db, Conn: conn, Telemetry: b.tel, Clock: time.Now, Lease: time.Second})
}

func (b *bundle) run(t *testing.T, cfg outbox.RelayConfig) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(b.ctx)
	done := make(chan error, 1)
	relay := b.out.NewRelay(cfg)
	go func() { done <- relay.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-done)
	})
	t.Cleanup(stop)
	return stop
}

func messages(subject string, n int) []outbox.Message {
	msgs := make([]outbox.Message, n)
	for i := range msgs {
		msgs[i] = outbox.Message{ID: uuid.Must(uuid.NewV7()), Subject: subject, Payload: fmt.Appendf(nil, "%d", i)}
	}
	return msgs
}

func (b *bundle) append(t *testing.T, msgs ...outbox.Message) {
	t.Helper()
	require.NoError(t, b.db.WithTx(b.ctx, func(tx pgx.Tx) error { return b.out.Append(b.ctx, tx, msgs...) }))
}

func (b *bundle) rows(t *testing.T) int {
	t.Helper()
	var n int
	require.NoError(t, b.db.QueryRow(b.ctx, "SELECT count(*) FROM registry.outbox").Scan(&n))
	return n
}

func (b *bundle) emptied(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool { return b.rows(t) == 0 }, patient, often, "the outbox does not get empty")
}

// stored reads the whole stream and answers how often each id is in it.
func (b *bundle) stored(t *testing.T, streamName string) map[string]int {
	t.Helper()
	stream, err := b.conn.JS().Stream(b.ctx, streamName)
	require.NoError(t, err)
	state := stream.CachedInfo().State
	seen := map[string]int{}
	for seq := state.FirstSeq; seq > 0 && seq <= state.LastSeq; seq++ {
		msg, err := stream.GetMsg(b.ctx, seq)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		require.NoError(t, err)
		seen[msg.Header.Get(jetstream.MsgIDHeader)]++
	}
	return seen
}

func (b *bundle) requireOnce(t *testing.T, msgs []outbox.Message) {
	t.Helper()
	seen := b.stored(t, natsx.AuditStream)
	require.Len(t, seen, len(msgs))
	for _, m := range msgs {
		require.Equal(t, 1, seen[m.ID.String()], "message %s", m.ID)
	}
}

func TestACommittedMessageIsPublishedWithinMilliseconds(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.relay(t, b.db, b.conn)
	warm := messages("audit.registry.agent.created", 1)
	b.append(t, warm...)
	b.emptied(t)

	// Faster than any poll: only the notification can have woken it. The best of several tries
	// counts, as the machine may be busy with other tests.
	sub, err := b.conn.NC().SubscribeSync("audit.>")
	require.NoError(t, err)
	best := time.Hour
	for range 10 {
		start := time.Now()
		b.append(t, messages("audit.registry.agent.created", 1)...)
		_, err = sub.NextMsg(patient)
		require.NoError(t, err)
		best = min(best, time.Since(start))
	}
	require.Less(t, best, 250*time.Millisecond)
}

func TestARolledBackTransactionPublishesNothing(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.relay(t, b.db, b.conn)
	cancelled := errors.New("changed my mind")
	err := b.db.WithTx(b.ctx, func(tx pgx.Tx) error {
		require.NoError(t, b.out.Append(b.ctx, tx, messages("audit.registry.agent.created", 3)...))
		return cancelled
	})
	require.ErrorIs(t, err, cancelled)
	kept := messages("audit.registry.agent.created", 1)
	b.append(t, kept...)
	b.emptied(t)
	b.requireOnce(t, kept)
}

func TestAppendOfNothingIsNothing(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.append(t)
	require.Zero(t, b.rows(t))
}

func TestTheSameMessageCannotBeAppendedTwice(t *testing.T) {
	t.Parallel()
	b := setup(t)
	msg := messages("audit.registry.agent.created", 1)
	b.append(t, msg...)
	err := b.db.WithTx(b.ctx, func(tx pgx.Tx) error { return b.out.Append(b.ctx, tx, msg...) })
	require.Equal(t, "outbox_pkey", pgdb.Constraint(err))
}

func TestWhatWasPublishedAndNotDeletedIsInTheStreamOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	msgs := messages("audit.registry.agent.created", 3)
	b.append(t, msgs...)
	// What a relay leaves that was killed after the ack: claimed rows, and the messages stored.
	_, err := b.db.Exec(b.ctx, "UPDATE registry.outbox SET claimed_until = clock_timestamp() + interval '300 ms'")
	require.NoError(t, err)
	for _, m := range msgs {
		_, err := b.conn.JS().Publish(b.ctx, m.Subject, m.Payload, jetstream.WithMsgID(m.ID.String()))
		require.NoError(t, err)
	}
	b.relay(t, b.db, b.conn)
	b.emptied(t)
	b.requireOnce(t, msgs)
}

func TestTwoRelaysShareTheWork(t *testing.T) {
	t.Parallel()
	b := setup(t)
	other := outbox.New(schema)
	require.NotSame(t, b.out, other)
	const n = 3000
	msgs := messages("audit.registry.agent.created", n)
	second := testkit.ConnectNATS(t, b.conn.NC().ConnectedUrl())
	b.relay(t, b.db, b.conn)
	b.relay(t, testkit.Open(t, b.db.Config().ConnString()), second)
	for chunk := range chunks(msgs, 50) {
		b.append(t, chunk...)
	}
	b.emptied(t)
	b.requireOnce(t, msgs)
	require.NotZero(t, b.conn.NC().Stats().OutMsgs)
	require.NotZero(t, second.NC().Stats().OutMsgs)
}

func TestARelayThatStoodStillPublishesNothing(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.append(t, messages("audit.registry.agent.created", 1)...)
	var looks atomic.Int64
	start := time.Now()
	stop := b.run(t, outbox.RelayConfig{
		DB: b.db, Conn: b.conn, Telemetry: b.tel, Lease: time.Minute,
		Clock: func() time.Time { return start.Add(time.Duration(looks.Add(1)) * time.Hour) },
	})
	// Every change of a row gives it another place: it was claimed, and is given back or gone.
	require.Eventually(t, func() (settled bool) {
		const sql = "SELECT NOT EXISTS (SELECT FROM registry.outbox WHERE ctid = '(0,1)' OR claimed_until IS NOT NULL)"
		require.NoError(t, b.db.QueryRow(b.ctx, sql).Scan(&settled))
		return settled
	}, patient, often)
	stop()
	require.Equal(t, 1, b.rows(t))
	require.Empty(t, b.stored(t, natsx.AuditStream))
}

func TestARelayThatIsStoppedFinishesItsBatch(t *testing.T) {
	t.Parallel()
	b := setup(t)
	// Nobody declared a stream: this test answers in its place.
	b.conn = testkit.ConnectNATS(t, testkit.NATSServer(t).URL())
	stream, err := b.conn.NC().SubscribeSync("audit.>")
	require.NoError(t, err)
	b.append(t, messages("audit.registry.agent.created", 1)...)
	ctx, cancel := context.WithCancel(b.ctx)
	defer cancel()
	relay := b.out.NewRelay(outbox.RelayConfig{DB: b.db, Conn: b.conn, Telemetry: b.tel, Clock: time.Now})
	done := make(chan error, 1)
	go func() { done <- relay.Run(ctx) }()
	msg, err := stream.NextMsg(patient)
	require.NoError(t, err)
	cancel()
	require.NoError(t, msg.Respond([]byte(`{"stream":"AUDIT","seq":1}`)))
	require.NoError(t, <-done)
	require.Zero(t, b.rows(t), "what was acknowledged would be published again")
}

func TestWhileNATSIsAwayRowsWaitAndGoWhenItReturns(t *testing.T) {
	t.Parallel()
	b := setup(t)
	server := testkit.NATSServer(t)
	b.conn = testkit.ConnectNATS(t, server.URL())
	require.NoError(t, b.conn.DeclareAudit(b.ctx))
	b.relay(t, b.db, b.conn)
	before := messages("audit.registry.agent.created", 20)
	b.append(t, before...)
	b.emptied(t)

	server.Stop()
	during := messages("audit.registry.agent.created", 700)
	b.append(t, during...)
	require.Eventually(t, func() bool { return testutil.ToFloat64(b.tel.Metrics.OutboxPending) == 700 }, patient, often)
	require.Equal(t, 700, b.rows(t))
	require.Eventually(t, func() bool { return testutil.ToFloat64(b.tel.Metrics.OutboxOldest) > 0.1 }, patient, often)

	require.NoError(t, server.Restart())
	b.emptied(t)
	b.requireOnce(t, append(before, during...))
	require.Eventually(t, func() bool { return testutil.ToFloat64(b.tel.Metrics.OutboxPending) == 0 }, patient, often)
	require.Eventually(t, func() bool { return testutil.ToFloat64(b.tel.Metrics.OutboxOldest) == 0 }, patient, often)
}

func TestLifecycleGoesOnWhileNobodyTakesAuditEvents(t *testing.T) {
	t.Parallel()
	b := setup(t)
	server := testkit.NATSServer(t)
	b.conn = testkit.ConnectNATS(t, server.URL())
	require.NoError(t, b.conn.DeclareLifecycle(b.ctx))
	b.append(t, messages("audit.registry.agent.created", 1200)...)
	b.relay(t, b.db, b.conn)
	b.append(t, outbox.Message{ID: uuid.New(), Subject: "lifecycle.agent.x", Payload: []byte("suspended")})
	require.Eventually(t, func() bool { return b.rows(t) == 1200 }, patient, often)

	require.NoError(t, b.conn.DeclareAudit(b.ctx))
	b.emptied(t)
	require.Len(t, b.stored(t, natsx.AuditStream), 1200)
}

func TestALifecycleSubjectKeepsTheOrderOfItsChangesUnderSeveralRelays(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const agents, changes = 5, 40
	sub, err := b.conn.NC().SubscribeSync("lifecycle.>")
	require.NoError(t, err)
	for range 3 {
		b.relay(t, b.db, testkit.ConnectNATS(t, b.conn.NC().ConnectedUrl()))
	}
	for change := range changes {
		for agent := range agents {
			b.append(t, outbox.Message{
				ID: uuid.New(), Subject: fmt.Sprintf("lifecycle.agent.%d", agent), Payload: fmt.Appendf(nil, "%04d", change),
			})
		}
	}
	b.emptied(t)
	last := map[string]string{}
	for range agents * changes {
		msg, err := sub.NextMsg(patient)
		require.NoError(t, err)
		require.Less(t, last[msg.Subject], string(msg.Data), "%s went back to an older state", msg.Subject)
		last[msg.Subject] = string(msg.Data)
	}
	require.Len(t, b.stored(t, natsx.LifecycleStream), agents)
}

func TestAMessageThatJetStreamRefusesHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	b := setup(t)
	tooLarge := outbox.Message{ID: uuid.New(), Subject: "audit.registry.agent.created", Payload: []byte(strings.Repeat("x", 2<<20))}
	b.append(t, tooLarge)
	good := messages("audit.registry.agent.created", 10)
	b.append(t, good...)
	b.relay(t, b.db, b.conn)
	require.Eventually(t, func() bool { return b.rows(t) == 1 }, patient, often)
	b.requireOnce(t, good)
}

func TestTheRelayOutlivesItsDatabaseConnections(t *testing.T) {
	t.Parallel()
	b := setup(t)
	all := testkit.Postgres(t, schema)
	b.db = testkit.Open(t, all.AppURL)
	admin := testkit.Open(t, all.AdminURL)
	b.relay(t, b.db, b.conn)
	first := messages("audit.registry.agent.created", 5)
	b.append(t, first...)
	b.emptied(t)

	_, err := admin.Exec(b.ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
	require.NoError(t, err)
	second := messages("audit.registry.agent.created", 5)
	require.Eventually(t, func() bool {
		return b.db.WithTx(b.ctx, func(tx pgx.Tx) error { return b.out.Append(b.ctx, tx, second...) }) == nil
	}, patient, often)
	b.emptied(t)
	b.requireOnce(t, append(first, second...))
}

func chunks(msgs []outbox.Message, size int) func(yield func([]outbox.Message) bool) {
	return func(yield func([]outbox.Message) bool) {
		for start := 0; start < len(msgs); start += size {
			if !yield(msgs[start:min(start+size, len(msgs))]) {
				return
			}
		}
	}
}
