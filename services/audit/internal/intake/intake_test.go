package intake_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/natsx"
	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/pkg/testkit"
	"github.com/sentryagent/agentidp/services/audit/internal/intake"
	"github.com/sentryagent/agentidp/services/audit/internal/postgres"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

// patience bounds waits on a machine that is busy with other tests.
const patience = 30 * time.Second

type bundle struct {
	conn  *natsx.Conn
	db    *pgdb.DB
	store *postgres.Sequencer
	read  *postgres.Store
}

func setup(t *testing.T) *bundle {
	t.Helper()
	db := testkit.DB(t, "audit")
	return &bundle{conn: testkit.NATS(t), db: db, store: sequencer(t, db), read: postgres.New(db)}
}

func sequencer(t *testing.T, db *pgdb.DB) *postgres.Sequencer {
	t.Helper()
	key := testkit.AuditLogKey(t)
	return postgres.NewSequencer(postgres.Sequencing{
		DB: db, Signer: key.Signer, PublicKey: key.Public, Window: trail.NewWindow(90), Clock: time.Now,
	})
}

// replica is an intake that runs.
type replica struct {
	tel  *telemetry.Telemetry
	stop func() // waits until it has stopped; may be called again
}

func start(t *testing.T, conn *natsx.Conn, recorder trail.Recorder) *replica {
	t.Helper()
	r := &replica{tel: telemetry.Discard("audit")}
	in, err := intake.New(intake.Config{Conn: conn, Recorder: recorder, Telemetry: r.tel, Clock: time.Now})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- in.Run(ctx) }()
	r.stop = func() {
		cancel()
		select {
		case err := <-done:
			require.NoError(t, err)
			done <- nil
		case <-time.After(patience):
			require.Fail(t, "the intake does not stop")
		}
	}
	t.Cleanup(r.stop)
	return r
}

// metric is the value of a metric, of its one series with label where one is given.
func (r *replica) metric(t *testing.T, name, label string) float64 {
	t.Helper()
	families, err := r.tel.Metrics.Registry.Gather()
	require.NoError(t, err)
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			if label == "" {
				return m.GetGauge().GetValue()
			}
			if m.GetLabel()[0].GetValue() == label {
				return m.GetCounter().GetValue()
			}
		}
	}
	require.Fail(t, "no such metric", "%s %s", name, label)
	return 0
}

func newEvent(t *testing.T) (uuid.UUID, []byte) {
	t.Helper()
	id := uuid.Must(uuid.NewV7())
	message, err := auditevent.New(id, time.Now(), "token", auditevent.TokenIssued, nil, auditevent.Origin{}, nil).Message()
	require.NoError(t, err)
	return id, message.Payload
}

func publish(t *testing.T, conn *natsx.Conn, payload []byte) {
	t.Helper()
	publishTo(t, conn, "audit.token.token.issued", payload)
}

func publishTo(t *testing.T, conn *natsx.Conn, subject string, payload []byte) {
	t.Helper()
	// A fresh context each: JetStream is asked again where the server has just come back.
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		_, err := conn.JS().Publish(ctx, subject, payload)
		return err == nil
	}, patience, 50*time.Millisecond)
}

// publishMany publishes n events and returns their ids, sorted.
func publishMany(t *testing.T, conn *natsx.Conn, n int) []uuid.UUID {
	t.Helper()
	ids := make([]uuid.UUID, n)
	for i := range ids {
		var payload []byte
		ids[i], payload = newEvent(t)
		publish(t, conn, payload)
	}
	sortIDs(ids)
	return ids
}

func sortIDs(ids []uuid.UUID) {
	slices.SortFunc(ids, func(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) })
}

func (b *bundle) count(t *testing.T, table string) (n int) {
	t.Helper()
	require.NoError(t, b.db.QueryRow(t.Context(), "SELECT count(*) FROM audit."+table).Scan(&n))
	return n
}

func (b *bundle) requireStored(t *testing.T, ids []uuid.UUID) {
	t.Helper()
	require.Eventually(t, func() bool { return b.count(t, "events") >= len(ids) }, patience, 20*time.Millisecond)
	rows, err := b.db.Query(t.Context(), "SELECT event_id FROM audit.events ORDER BY event_id")
	require.NoError(t, err)
	defer rows.Close()
	var stored []uuid.UUID
	for rows.Next() {
		var id uuid.UUID
		require.NoError(t, rows.Scan(&id))
		stored = append(stored, id)
	}
	require.NoError(t, rows.Err())
	require.Equal(t, ids, stored)
}

// waiting is how many messages the stream holds, those in delivery included.
func (b *bundle) waiting(t *testing.T) uint64 {
	t.Helper()
	stream, err := b.conn.JS().Stream(t.Context(), natsx.AuditStream)
	require.NoError(t, err)
	return stream.CachedInfo().State.Msgs
}

func (b *bundle) requireDrained(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool { return b.waiting(t) == 0 }, patience, 20*time.Millisecond)
}

func TestEventsAreVisibleWithinASecond(t *testing.T) {
	t.Parallel()
	b := setup(t)
	start(t, b.conn, b.store)
	b.requireStored(t, publishMany(t, b.conn, 1)) // the consumer is there

	var took []time.Duration
	for range 9 {
		id, payload := newEvent(t)
		publish(t, b.conn, payload)
		published := time.Now()
		require.Eventually(t, func() bool {
			_, err := b.read.Get(t.Context(), id)
			return err == nil
		}, patience, 5*time.Millisecond)
		took = append(took, time.Since(published))
	}
	slices.Sort(took)
	require.Less(t, took[len(took)/2], time.Second, "median of %v", took)
}

func TestReplicasShareTheStreamAndStoreEachEventOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	replicas := []*replica{start(t, b.conn, b.store), start(t, b.conn, b.store)}

	ids := publishMany(t, b.conn, 700)

	b.requireStored(t, ids)
	b.requireDrained(t)
	stored := replicas[0].metric(t, "agentidp_audit_events_total", "stored") + replicas[1].metric(t, "agentidp_audit_events_total", "stored")
	require.InDelta(t, 700, stored, 0)
}

func TestAnEventThatIsPublishedTwiceIsStoredOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	r := start(t, b.conn, b.store)
	id, payload := newEvent(t)
	publish(t, b.conn, payload)
	b.requireStored(t, []uuid.UUID{id})
	publish(t, b.conn, payload) // long after the stream would have noticed
	b.requireDrained(t)
	b.requireStored(t, []uuid.UUID{id})
	require.InDelta(t, 1, r.metric(t, "agentidp_audit_events_total", "duplicate"), 0)
}

func TestPoisonEndsAsDeadLettersAndBlocksNothing(t *testing.T) {
	t.Parallel()
	b := setup(t)
	poison := [][]byte{
		nil, []byte("no JSON"), []byte("\x00\xff"), []byte(`{"schemaVersion":2}`), []byte(`[]`),
		slices.Repeat([]byte("x"), 900_000),
		edited(t, `"schemaVersion":1`, `"schemaVersion":2`),
		edited(t, `"metadata":{}`, `"metadata":{},"metadata":{}`),
		edited(t, `"metadata":{}`, `"metadata":{"n":12345678901234567890}`),
		edited(t, `"userAgent":""`, `"userAgent":"`+strings.Repeat("x", 70_000)+`"`),
		edited(t, `"timestamp":"`, `"timestamp":"1970-01-01T00:00:00Z","was":"`),
		edited(t, `"timestamp":"`, `"timestamp":"9999-12-31T00:00:00Z","was":"`),
	}
	var ids []uuid.UUID
	for _, payload := range poison {
		publish(t, b.conn, payload)
		ids = append(ids, publishMany(t, b.conn, 1)...)
	}
	r := start(t, b.conn, b.store)

	b.requireStored(t, ids)
	b.requireDrained(t)
	require.Equal(t, len(poison), b.count(t, "dead_letters"))
	require.InDelta(t, len(poison), r.metric(t, "agentidp_audit_events_total", "dead_letter"), 0)
	var kept []byte
	require.NoError(t, b.db.QueryRow(t.Context(), "SELECT payload FROM audit.dead_letters WHERE stream_sequence = 5").Scan(&kept))
	require.Equal(t, poison[2], kept, "the bytes as received")
}

func TestEventsOfOneMessageAreStoredEachAndOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	r := start(t, b.conn, b.store)
	var ids []uuid.UUID
	var payloads [][]byte
	for range 3 {
		id, payload := newEvent(t)
		ids, payloads = append(ids, id), append(payloads, payload)
	}
	sortIDs(ids)
	batch := auditevent.Join([][]byte{payloads[0], []byte("no JSON"), payloads[1], {}, payloads[2], payloads[0]})

	publishTo(t, b.conn, auditevent.BatchSubject("token"), batch)
	b.requireStored(t, ids)
	b.requireDrained(t)
	publish(t, b.conn, payloads[1]) // as the relay does after an acknowledgement that came too late
	publishTo(t, b.conn, auditevent.BatchSubject("token"), batch)

	b.requireDrained(t)
	b.requireStored(t, ids)
	require.InDelta(t, 3, r.metric(t, "agentidp_audit_events_total", "stored"), 0)
	require.InDelta(t, 6, r.metric(t, "agentidp_audit_events_total", "duplicate"), 0)
	require.Equal(t, 4, b.count(t, "dead_letters"), "each line of each message")
}

func TestAMessageOfTooManyLinesIsOneDeadLetter(t *testing.T) {
	t.Parallel()
	b := setup(t)
	start(t, b.conn, b.store)
	publishTo(t, b.conn, auditevent.BatchSubject("token"), slices.Repeat([]byte("\n"), 900_000))
	b.requireStored(t, publishMany(t, b.conn, 1))
	b.requireDrained(t)
	require.Equal(t, 1, b.count(t, "dead_letters"))
}

// weigher remembers the heaviest batch.
type weigher struct {
	trail.Recorder
	heaviest atomic.Int64
}

func (w *weigher) Record(ctx context.Context, batch []trail.Delivery) ([]trail.Verdict, error) {
	bytes := int64(0)
	for _, d := range batch {
		bytes += int64(len(d.Payload))
	}
	w.heaviest.Store(max(w.heaviest.Load(), bytes))
	return w.Recorder.Record(ctx, batch)
}

func TestAPileOfBigPoisonIsTakenInBoundedBatches(t *testing.T) {
	t.Parallel()
	b := setup(t)
	poison := slices.Repeat([]byte("x"), 900_000)
	const pile = 25
	for range pile {
		publish(t, b.conn, poison)
	}
	ids := publishMany(t, b.conn, 1)
	recorder := &weigher{Recorder: b.store}
	start(t, b.conn, recorder)

	b.requireStored(t, ids)
	b.requireDrained(t)
	require.Equal(t, pile, b.count(t, "dead_letters"))
	require.LessOrEqual(t, recorder.heaviest.Load(), int64(2<<20))
	require.Greater(t, recorder.heaviest.Load(), int64(len(poison)), "and not one by one")
}

// edited is the payload of a new event, changed.
func edited(t *testing.T, from, to string) []byte {
	t.Helper()
	_, payload := newEvent(t)
	changed := strings.Replace(string(payload), from, to, 1)
	require.NotEqual(t, string(payload), changed)
	return []byte(changed)
}

func TestAnotherEventUnderAnIDThatIsTakenIsADeadLetter(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id, payload := newEvent(t)
	forged := []byte(strings.Replace(string(payload), "token.issued", "token.revoked", 1))
	start(t, b.conn, b.store)
	publish(t, b.conn, payload)
	b.requireStored(t, []uuid.UUID{id})
	publish(t, b.conn, forged)
	b.requireDrained(t)
	require.Eventually(t, func() bool { return b.count(t, "dead_letters") == 1 }, patience, 20*time.Millisecond)
	event, err := b.read.Get(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, payload, event.Payload, "the first one stays")
}

func TestEventsInAnyOrderAndAnyNumberOfTimesAreStoredOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	start(t, b.conn, b.store)
	var ids []uuid.UUID
	var payloads [][]byte
	for i := range 20 { // of the last ten days
		id := uuid.New() // without a time, as the event's is another
		at := time.Now().Add(-time.Duration(i) * 12 * time.Hour)
		message, err := auditevent.New(id, at, "token", auditevent.TokenIssued, nil, auditevent.Origin{}, nil).Message()
		require.NoError(t, err)
		ids, payloads = append(ids, id), append(payloads, message.Payload)
	}
	for round := range 3 { // without an id of the message, so that the stream notices nothing
		for i := range payloads {
			publish(t, b.conn, payloads[(i*7+round)%len(payloads)])
		}
	}
	sortIDs(ids)
	b.requireStored(t, ids)
	b.requireDrained(t)
	b.requireStored(t, ids)
	require.Zero(t, b.count(t, "dead_letters"))
}

// outage is a recorder that fails until it is over. Where it is late, it fails
// after it has stored, like a process that is killed before it acknowledges.
type outage struct {
	trail.Recorder
	late   bool
	over   atomic.Bool
	failed atomic.Int64
}

func (o *outage) Record(ctx context.Context, batch []trail.Delivery) ([]trail.Verdict, error) {
	if o.over.Load() {
		return o.Recorder.Record(ctx, batch)
	}
	if o.late {
		if _, err := o.Recorder.Record(ctx, batch); err != nil {
			return nil, err
		}
	}
	o.failed.Add(1)
	return nil, errors.New("away")
}

func TestEventsWaitInTheStreamWhileTheDatabaseIsAway(t *testing.T) {
	t.Parallel()
	b := setup(t)
	recorder := &outage{Recorder: b.store}
	r := start(t, b.conn, recorder)
	ids := publishMany(t, b.conn, 20)

	require.Eventually(t, func() bool { return recorder.failed.Load() >= 3 }, patience, 20*time.Millisecond, "it keeps trying")
	require.EqualValues(t, 20, b.waiting(t))
	require.Eventually(t, func() bool { return r.metric(t, "agentidp_audit_lag_seconds", "") > 0 }, patience, 50*time.Millisecond)

	recorder.over.Store(true)
	b.requireStored(t, ids)
	b.requireDrained(t)
	require.Eventually(t, func() bool { return r.metric(t, "agentidp_audit_lag_seconds", "") == 0 }, patience, 50*time.Millisecond)
}

func TestEventsThatWereStoredAndNotAcknowledgedAreRecognised(t *testing.T) {
	t.Parallel()
	b := setup(t)
	recorder := &outage{Recorder: b.store, late: true}
	r := start(t, b.conn, recorder)
	ids := publishMany(t, b.conn, 5)
	b.requireStored(t, ids)

	recorder.over.Store(true)

	b.requireDrained(t)
	b.requireStored(t, ids)
	require.InDelta(t, 5, r.metric(t, "agentidp_audit_events_total", "duplicate"), 0)
}

func TestAReplicaTakesOverWhereAnotherStopped(t *testing.T) {
	t.Parallel()
	b := setup(t)
	first := start(t, b.conn, b.store)
	ids := publishMany(t, b.conn, 50)
	first.stop()
	ids = append(ids, publishMany(t, b.conn, 50)...) // nobody listens
	sortIDs(ids)
	require.Positive(t, b.waiting(t))

	start(t, b.conn, b.store)

	b.requireStored(t, ids)
	b.requireDrained(t)
	require.Zero(t, b.count(t, "dead_letters"))
}

func TestTheIntakeComesBeforeItsServersAndOutlivesTheirRestarts(t *testing.T) {
	t.Parallel()
	server := testkit.NATSServer(t)
	server.Stop()
	db := testkit.DB(t, "audit")
	b := &bundle{conn: testkit.ConnectNATS(t, server.URL()), db: db, store: sequencer(t, db)}
	start(t, b.conn, b.store)
	require.NoError(t, server.Restart())
	ids := publishMany(t, b.conn, 3)
	b.requireStored(t, ids)

	require.NoError(t, server.Restart())

	ids = append(ids, publishMany(t, b.conn, 3)...)
	sortIDs(ids)
	b.requireStored(t, ids)
}

func TestAStreamThatWasLostIsDeclaredAgain(t *testing.T) {
	t.Parallel()
	b := setup(t)
	start(t, b.conn, b.store)
	ids := publishMany(t, b.conn, 1)
	b.requireStored(t, ids)
	require.NoError(t, b.conn.JS().DeleteStream(t.Context(), natsx.AuditStream))
	require.Eventually(t, func() bool {
		_, err := b.conn.JS().Consumer(t.Context(), natsx.AuditStream, intake.Durable)
		return err == nil
	}, patience, 50*time.Millisecond)

	ids = append(ids, publishMany(t, b.conn, 1)...)

	sortIDs(ids)
	b.requireStored(t, ids)
}

func TestTheConsumerNeverGivesUpOnAMessage(t *testing.T) {
	t.Parallel()
	b := setup(t)
	start(t, b.conn, b.store)
	var info *jetstream.ConsumerInfo
	require.Eventually(t, func() bool {
		consumer, err := b.conn.JS().Consumer(t.Context(), natsx.AuditStream, intake.Durable)
		if err != nil {
			return false
		}
		info = consumer.CachedInfo()
		return true
	}, patience, 20*time.Millisecond)
	require.Equal(t, -1, info.Config.MaxDeliver)
	require.Equal(t, jetstream.AckExplicitPolicy, info.Config.AckPolicy)
	require.Equal(t, jetstream.DeliverAllPolicy, info.Config.DeliverPolicy)
}
