package intake

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/auditlog"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

// note is a message that remembers how it was settled. Other methods of a message
// are not called.
type note struct {
	jetstream.Msg
	subject   string // audit.token.token.issued where it is empty
	data      []byte
	delivered uint64
	behind    uint64 // how many more wait in the stream
	settled   string
	away      time.Duration
	lost      error // what settling answers
}

func (n *note) Subject() string { return cmp.Or(n.subject, "audit.token.token.issued") }
func (n *note) Data() []byte    { return n.data }
func (n *note) Ack() error      { n.settled = "ack"; return n.lost }
func (n *note) Nak() error      { n.settled = "nak"; return n.lost }

// lines is a message with several events.
func lines(payloads ...[]byte) *note {
	return &note{subject: "audit.token.batch", data: auditevent.Join(payloads), delivered: 1}
}

// record is Intake.record of a batch of these messages.
func record(ctx context.Context, in *Intake, messages ...jetstream.Msg) error {
	waiting, err := pull(&pile{messages: messages}, len(messages))
	if err != nil {
		return err
	}
	return in.record(ctx, waiting, recordFor)
}

func (n *note) Metadata() (*jetstream.MsgMetadata, error) {
	return &jetstream.MsgMetadata{
		Sequence:     jetstream.SequencePair{Stream: 42},
		NumDelivered: n.delivered,
		NumPending:   n.behind,
		Timestamp:    time.Unix(1, 0),
	}, nil
}

func (n *note) NakWithDelay(d time.Duration) error {
	n.settled, n.away = "nak", d
	return n.lost
}

func (n *note) TermWithReason(string) error { n.settled = "term"; return n.lost }

// clerk is a recorder that answers what it was told to.
type clerk struct {
	verdicts []trail.Verdict
	err      error
	given    []trail.Delivery
	ctx      error // of the context it was called with
}

func (c *clerk) Record(ctx context.Context, batch []trail.Delivery) ([]trail.Verdict, error) {
	c.given, c.ctx = batch, ctx.Err()
	return c.verdicts, c.err
}

func eventPayload(t *testing.T) []byte {
	t.Helper()
	event := auditevent.New(uuid.Must(uuid.NewV7()), time.Now(), "token", auditevent.TokenIssued, nil, auditevent.Origin{}, nil)
	message, err := event.Message()
	require.NoError(t, err)
	return message.Payload
}

func newIntake(t *testing.T, recorder trail.Recorder) *Intake {
	t.Helper()
	in, err := New(Config{Recorder: recorder, Telemetry: telemetry.Discard("audit"), Clock: time.Now})
	require.NoError(t, err)
	return in
}

func TestEachVerdictSettlesItsMessage(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		verdict trail.Verdict
		settled string
		result  string
		lost    error
	}{
		"stored is acknowledged":         {trail.Stored, "ack", "stored", nil},
		"a duplicate is acknowledged":    {trail.Duplicate, "ack", "duplicate", nil},
		"a dead letter is terminated":    {trail.Dead, "term", "dead_letter", nil},
		"what may pass is given back":    {trail.Retry, "nak", "retry", nil},
		"an unheard ack is not an error": {trail.Stored, "ack", "stored", errors.New("connection closed")},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := newIntake(t, &clerk{verdicts: []trail.Verdict{test.verdict}})
			message := &note{data: eventPayload(t), delivered: 1, lost: test.lost}

			require.NoError(t, record(t.Context(), in, message))

			require.Equal(t, test.settled, message.settled)
			require.InDelta(t, 1, testutil.ToFloat64(in.events.WithLabelValues(test.result)), 0)
		})
	}
}

func TestAMessageOfSeveralEventsIsSettledForAllOfThem(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		verdicts []trail.Verdict
		settled  string
		results  map[string]float64
	}{
		"all of them stored":      {[]trail.Verdict{trail.Stored, trail.Duplicate, trail.Stored}, "ack", map[string]float64{"stored": 2, "duplicate": 1}},
		"one to be tried again":   {[]trail.Verdict{trail.Stored, trail.Retry, trail.Dead}, "nak", map[string]float64{"stored": 1, "retry": 1}},
		"one is a dead letter":    {[]trail.Verdict{trail.Dead, trail.Stored, trail.Duplicate}, "term", map[string]float64{"stored": 1, "duplicate": 1, "dead_letter": 1}},
		"the last a dead letter":  {[]trail.Verdict{trail.Stored, trail.Stored, trail.Dead}, "term", map[string]float64{"stored": 2, "dead_letter": 1}},
		"the last is tried again": {[]trail.Verdict{trail.Dead, trail.Stored, trail.Retry}, "nak", map[string]float64{"stored": 1, "retry": 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			verdicts := slices.Concat([]trail.Verdict{trail.Stored}, test.verdicts, []trail.Verdict{trail.Stored})
			in := newIntake(t, &clerk{verdicts: verdicts})
			before, message, after := &note{data: eventPayload(t)}, lines(eventPayload(t), eventPayload(t), eventPayload(t)), &note{data: eventPayload(t)}

			require.NoError(t, record(t.Context(), in, before, message, after))

			require.Equal(t, test.settled, message.settled)
			require.Equal(t, "ack", before.settled)
			require.Equal(t, "ack", after.settled)
			test.results["stored"] += 2
			for _, result := range []string{"stored", "duplicate", "dead_letter", "retry"} {
				require.InDelta(t, test.results[result], testutil.ToFloat64(in.events.WithLabelValues(result)), 0, result)
			}
		})
	}
}

func TestNothingIsAcknowledgedThatWasNotRecorded(t *testing.T) {
	t.Parallel()
	away := errors.New("postgres is away")
	in := newIntake(t, &clerk{err: away})
	first, again := &note{data: eventPayload(t), delivered: 1}, &note{data: []byte("no event"), delivered: 9}

	err := record(t.Context(), in, first, again)

	require.ErrorIs(t, err, away)
	require.Equal(t, "nak", first.settled)
	require.Equal(t, "nak", again.settled, "not even what would be a dead letter")
	require.Equal(t, firstRetry, first.away)
	require.Equal(t, lastRetry, again.away, "the delay grows with the deliveries")
	require.InDelta(t, 2, testutil.ToFloat64(in.events.WithLabelValues("retry")), 0)
}

func TestWhatNoOtherTryWillStoreIsCountedAsAFaultOfTheLog(t *testing.T) {
	t.Parallel()
	for fault, err := range map[string]error{"torn": trail.ErrTorn, "other_key": trail.ErrOtherKey} {
		in := newIntake(t, &clerk{err: fmt.Errorf("postgres: %w", err)})
		require.Error(t, record(t.Context(), in, &note{data: eventPayload(t), delivered: 1}))
		require.InDelta(t, 1, testutil.ToFloat64(in.faults.WithLabelValues(fault)), 0)
		require.Equal(t, 2, testutil.CollectAndCount(in.faults), "the other is there at zero")
	}
}

func TestDeliveriesCarryTheEventOrWhyThereIsNone(t *testing.T) {
	t.Parallel()
	recorder := &clerk{verdicts: []trail.Verdict{trail.Stored, trail.Dead, trail.Stored, trail.Dead}}
	in := newIntake(t, recorder)
	good := eventPayload(t)

	require.NoError(t, record(t.Context(), in, &note{data: good}, &note{data: []byte("{")}, lines(good, []byte("{"))))

	origin := trail.Origin{Sequence: 42, PublishedAt: time.Unix(1, 0), Subject: "audit.token.token.issued"}
	first, second := origin, origin
	first.Subject, second.Subject, second.Line = "audit.token.batch", "audit.token.batch", 1
	event, err := trail.Decode(good)
	require.NoError(t, err)
	leaf, err := auditlog.Leaf(good)
	require.NoError(t, err)
	require.Equal(t, []trail.Delivery{
		{Origin: origin, Event: event, Leaf: leaf, LeafHash: auditlog.HashLeaf(leaf), Payload: good},
		{Origin: origin, Reject: "not an event: invalid JSON at byte 1", Payload: []byte("{")},
		{Origin: first, Event: event, Leaf: leaf, LeafHash: auditlog.HashLeaf(leaf), Payload: good},
		{Origin: second, Reject: "not an event: invalid JSON at byte 1", Payload: []byte("{")},
	}, recorder.given)
}

func TestABatchThatWasBegunIsRecordedThoughTheServiceStops(t *testing.T) {
	t.Parallel()
	recorder := &clerk{verdicts: []trail.Verdict{trail.Stored}}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	require.NoError(t, record(ctx, newIntake(t, recorder), &note{data: eventPayload(t)}))
	require.NoError(t, recorder.ctx)
}

func TestGatherPullsWhatComesSoonAllAtOnce(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		behind  uint64
		stops   bool
		waits   time.Duration
		waiting int
	}{
		"few wait":               {behind: maxBatch - 1, waits: gatherFor - restFor, waiting: maxBatch},
		"enough wait already":    {behind: maxBatch, waiting: maxBatch},
		"the service is to stop": {stops: true, waiting: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, stop := context.WithCancel(t.Context())
				defer stop()
				if test.stops {
					stop()
				}
				messages := slices.Repeat([]jetstream.Msg{&note{behind: test.behind}}, 2*maxBatch)
				begun := time.Now()
				waiting, err := gather(ctx, &pile{messages: messages})
				require.NoError(t, err)
				require.Len(t, waiting, test.waiting)
				require.Equal(t, test.waits, time.Since(begun))
			})
		})
	}
}

func TestGatherKeepsWhatItTookWhereAPullBreaks(t *testing.T) {
	t.Parallel()
	gone := errors.New("gone")
	for pulls, want := range []int{0, 1} {
		waiting, err := gather(t.Context(), &pile{messages: []jetstream.Msg{&note{behind: maxBatch}}, pulls: pulls, broken: gone})
		require.ErrorIs(t, err, gone)
		require.Len(t, waiting, want, "pulls before it is gone: %d", pulls)
	}
	waiting, err := gather(t.Context(), &pile{messages: []jetstream.Msg{&note{}}, ends: gone})
	require.ErrorIs(t, err, gone)
	require.Len(t, waiting, 1, "with the error")
}

func TestAStoppingServiceGivesBackWhatItHasNotBegun(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithCancel(t.Context())
	stop()
	first, second := &note{lost: errors.New("not heard")}, &note{}
	begun, err := newIntake(t, &clerk{}).work(ctx, []parcel{{Msg: first}, {Msg: second}}, time.Now())
	require.NoError(t, err)
	require.False(t, begun)
	require.Equal(t, "nak", first.settled)
	require.Equal(t, "nak", second.settled)
}

func TestABatchIsBegunHoweverLongItTookToCome(t *testing.T) {
	t.Parallel()
	full := slices.Repeat([][]byte{[]byte("{}")}, maxBatch)
	for _, took := range []time.Duration{beginFor, recordFor, time.Minute} {
		now, first, second := time.Unix(100, 0), lines(full...), lines(full...)
		recorder := &slow{}
		in, err := New(Config{Recorder: recorder, Telemetry: telemetry.Discard("audit"), Clock: func() time.Time { return now }})
		require.NoError(t, err)
		begun, err := in.work(t.Context(), []parcel{{first, full}, {second, full}}, now.Add(-took))
		require.NoError(t, err)
		require.True(t, begun, "or it would come and be given back for ever")
		require.Equal(t, "ack", first.settled)
		require.Equal(t, "nak", second.settled)
		require.Equal(t, []time.Duration{recordFor - beginFor}, recorder.given, "time enough")
	}
}

func TestItIsEventsThatFillABatch(t *testing.T) {
	t.Parallel()
	few, many := parcel{payloads: make([][]byte, 1)}, parcel{payloads: make([][]byte, maxBatch-1)}
	require.Equal(t, maxBatch, fill(slices.Repeat([]parcel{few}, maxBatch+7)))
	require.Equal(t, 2, fill([]parcel{many, many, many}))
	require.Equal(t, 1, fill([]parcel{many}))
}

func TestDelayDoublesUpToItsBound(t *testing.T) {
	t.Parallel()
	require.Equal(t, 100*time.Millisecond, delay(1))
	require.Equal(t, 200*time.Millisecond, delay(2))
	require.Equal(t, 3200*time.Millisecond, delay(6))
	require.Equal(t, 5*time.Second, delay(7))
	require.Equal(t, 5*time.Second, delay(1<<40))
}

func TestLagIsTheAgeOfTheOldestWaitingEvent(t *testing.T) {
	t.Parallel()
	now := time.Now()
	require.InDelta(t, 0, lag(time.Time{}, now), 0, "nothing waits")
	require.InDelta(t, 90, lag(now.Add(-90*time.Second), now), 0)
	require.InDelta(t, 0, lag(now.Add(time.Second), now), 0, "clocks differ")
}

func TestMetricsAreThereBeforeTheFirstEvent(t *testing.T) {
	t.Parallel()
	tel := telemetry.Discard("audit")
	_, err := New(Config{Telemetry: tel, Clock: time.Now})
	require.NoError(t, err)
	found, err := testutil.GatherAndCount(tel.Metrics.Registry, "agentidp_audit_lag_seconds", "agentidp_audit_events_total")
	require.NoError(t, err)
	require.Equal(t, 5, found)

	_, err = New(Config{Telemetry: &telemetry.Telemetry{Log: slog.New(slog.DiscardHandler), Metrics: tel.Metrics}, Clock: time.Now})
	require.Error(t, err, "two intakes in one registry would count each other's events")
}

// pile is a consumer of messages that wait.
type pile struct {
	jetstream.Consumer
	messages []jetstream.Msg
	done     context.CancelFunc // called when the last is taken and another asked for
	pulls    int                // before it is broken
	broken   error
	ends     error // with which each pull ends
}

func (p *pile) Fetch(most int, _ ...jetstream.FetchOpt) (jetstream.MessageBatch, error) {
	if p.pulls--; p.broken != nil && p.pulls < 0 {
		return nil, p.broken
	}
	taken := p.messages[:min(most, len(p.messages))]
	p.messages = p.messages[len(taken):]
	if len(taken) == 0 && most == 1 {
		p.done()
	}
	end := over(taken...)
	end.err = p.ends
	return end, nil
}

// heap is messages behind each of which enough wait for nobody to wait for more.
func heap(notes ...*note) []jetstream.Msg {
	messages := make([]jetstream.Msg, len(notes))
	for i, n := range notes {
		n.behind = maxBatch
		messages[i] = n
	}
	return messages
}

// pulled is a pull that is over.
type pulled struct {
	messages chan jetstream.Msg
	err      error
}

func over(messages ...jetstream.Msg) *pulled {
	p := &pulled{messages: make(chan jetstream.Msg, len(messages))}
	for _, message := range messages {
		p.messages <- message
	}
	close(p.messages)
	return p
}

func (p *pulled) Messages() <-chan jetstream.Msg { return p.messages }
func (p *pulled) Error() error                   { return p.err }

// slow is a recorder that takes its time, and remembers how much it was given.
type slow struct {
	takes time.Duration
	fails error
	now   time.Time
	given []time.Duration // until its deadline
}

func (s *slow) Record(ctx context.Context, batch []trail.Delivery) ([]trail.Verdict, error) {
	deadline, _ := ctx.Deadline()
	s.given = append(s.given, time.Until(deadline).Round(time.Second))
	s.now = s.now.Add(s.takes)
	if s.fails != nil {
		return nil, s.fails
	}
	return slices.Repeat([]trail.Verdict{trail.Stored}, len(batch)), nil
}

func TestWhatAReplicaCannotBeginInTimeIsGivenBack(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		takes   time.Duration
		fails   error
		settled []string
		away    time.Duration // of the first
		given   []time.Duration
	}{
		"as it is slow": {
			takes: 3 * time.Second, settled: []string{"ack", "ack", "nak", "nak"},
			given: []time.Duration{recordFor, recordFor - 3*time.Second},
		},
		"as nothing can be stored": {
			takes: time.Second, fails: errors.New("away"), settled: []string{"nak", "nak", "nak", "nak"},
			away: firstRetry, given: []time.Duration{recordFor},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			full := slices.Repeat([][]byte{[]byte("{}")}, maxBatch)
			messages := []*note{lines(full...), lines(full...), lines(full...), lines(full...)}
			recorder := &slow{takes: test.takes, fails: test.fails, now: time.Unix(1, 0)}
			in, err := New(Config{Recorder: recorder, Telemetry: telemetry.Discard("audit"), Clock: func() time.Time { return recorder.now }})
			require.NoError(t, err)

			require.NoError(t, in.pump(ctx, &pile{messages: heap(messages...), done: cancel}))

			var settled []string
			for _, message := range messages {
				settled = append(settled, message.settled)
			}
			require.Equal(t, test.settled, settled, "before jetstream gives them to others by itself")
			require.Equal(t, test.away, messages[0].away)
			require.Zero(t, messages[3].away, "others may have it at once")
			require.Equal(t, test.given, recorder.given)
		})
	}
}

func TestWhatWasNotBegunIsGivenBackBeforeThePause(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		full := slices.Repeat([][]byte{[]byte("{}")}, maxBatch)
		begun, waits := lines(full...), lines(full...)
		in := newIntake(t, &clerk{err: errors.New("away")})
		done := make(chan error, 1)
		go func() { done <- in.pump(ctx, &pile{messages: heap(begun, waits), done: cancel}) }()
		synctest.Wait() // it pauses
		require.NoError(t, ctx.Err())
		require.Equal(t, "nak", begun.settled)
		require.Equal(t, "nak", waits.settled)
		require.NoError(t, <-done)
	})
}

// whales is a pile of messages that are larger than a pull of many may be.
type whales struct{ pile }

func (w *whales) Fetch(most int, options ...jetstream.FetchOpt) (jetstream.MessageBatch, error) {
	if most > 1 {
		return over(), nil
	}
	return w.pile.Fetch(most, options...)
}

func TestAMessageThatNoPullHasRoomForIsTakenByItself(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	message := &note{data: []byte("x")}
	in := newIntake(t, &clerk{verdicts: []trail.Verdict{trail.Dead}})

	require.NoError(t, in.pump(ctx, &whales{pile{messages: heap(message), done: cancel}}))

	require.Equal(t, "term", message.settled)
}
