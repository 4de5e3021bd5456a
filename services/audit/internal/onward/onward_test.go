package onward_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/auditlog"
	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/natsx"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/pkg/testkit"
	"github.com/sentryagent/agentidp/services/audit/internal/export"
	"github.com/sentryagent/agentidp/services/audit/internal/onward"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

const waitFor, tick = 30 * time.Second, 10 * time.Millisecond

var now = time.Date(2026, 11, 22, 15, 30, 0, 0, time.UTC)

// shelf is a log in memory. Row 3 is gone, row 4 is older than the others, row
// 5 is no event any more.
type shelf struct {
	mutex  sync.Mutex
	size   int64
	next   int64
	holder uuid.UUID // who publishes, whoever asks first
	forget bool      // does not hear the next Advance
	leases int       // how often somebody asked for its turn
	asked  []bool    // for each call of Rows, whether it was for the last days

	payload func(i int64) []byte // nil for that of all tests
	added   int                  // rows that somebody added under leaf 7
}

func (s *shelf) Lease(_ context.Context, holder uuid.UUID, _ time.Duration) (onward.Due, bool, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.leases++
	if s.holder == uuid.Nil {
		s.holder = holder
	}
	return onward.Due{Next: s.next, Size: s.size}, s.holder == holder, nil
}

func (s *shelf) Release(_ context.Context, holder uuid.UUID) error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.holder == holder {
		s.holder = uuid.Nil
	}
	return nil
}

func (s *shelf) Advance(_ context.Context, holder uuid.UUID, from, next int64) (bool, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.forget {
		s.forget = false
		return false, context.DeadlineExceeded
	}
	if s.holder != holder || s.next != from {
		return false, nil
	}
	s.next = next
	return true, nil
}

func (s *shelf) Rows(_ context.Context, filter *trail.Filter, first, end int64, limit int) ([]export.Row, error) {
	s.mutex.Lock()
	s.asked = append(s.asked, filter != nil)
	payload := payload
	if s.payload != nil {
		payload = s.payload
	}
	s.mutex.Unlock()
	var rows []export.Row
	for i := first; i < end && len(rows) < limit; i++ {
		switch i {
		case 3:
		case 4:
			if filter == nil || !filter.From.After(now.Add(-72*time.Hour)) { // it is three days old
				rows = append(rows, export.Row{Index: i, Payload: payload(i)})
			}
		case 5:
			rows = append(rows, export.Row{Index: i, Payload: []byte(`{}`)})
		default:
			rows = append(rows, export.Row{Index: i, Payload: payload(i)})
		}
		for n := range s.added {
			if i == 7 && len(rows) < limit {
				rows = append(rows, export.Row{Index: i, Payload: payload(int64(10_000 + n))})
			}
		}
	}
	return rows, nil
}

func (s *shelf) grow(size int64) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.size = size
}

// pages is asked.
func (s *shelf) pages() []bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return slices.Clone(s.asked)
}

func (s *shelf) publisher() uuid.UUID {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.holder
}

// looks is leases.
func (s *shelf) looks() int {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.leases
}

func (s *shelf) cursor() int64 {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.next
}

func payload(i int64) []byte {
	return fmt.Appendf(nil, `{"schemaVersion":1,"eventId":"%s","timestamp":"2026-11-22T09:14:03Z","action":"agent.created",
		"outcome":"success","service":"registry","metadata":{"n":%d}}`, uuid.NewSHA1(uuid.Nil, fmt.Append(nil, i)), i)
}

// serve runs a publisher of one replica until the test ends.
func serve(t *testing.T, s *shelf, url string) *natsx.Conn {
	t.Helper()
	_, conn := serveOn(t, s, url)
	return conn
}

func serveOn(t *testing.T, s *shelf, url string) (*onward.Publisher, *natsx.Conn) {
	t.Helper()
	conn, err := natsx.Connect(natsx.Config{URL: config.Secret(url), Replicas: 1}, "audit", telemetry.Discard("audit"))
	require.NoError(t, err)
	p := onward.New(onward.Config{Log: s, Conn: conn, MaxBytes: 1 << 20, Holder: uuid.New(), Logger: telemetry.Discard("audit").Log,
		Clock: func() time.Time { return now }})
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-ended)
		conn.Close()
	})
	return p, conn
}

// stored are the events of the leaves from first to before end, as the recorder tells of them.
func stored(t *testing.T, first, end int64) []trail.Delivery {
	t.Helper()
	var events []trail.Delivery
	for i := first; i < end; i++ {
		event := trail.Receive(trail.Origin{}, payload(i))
		require.Empty(t, event.Reject)
		events = append(events, event)
	}
	return events
}

// requireLeaves expects the messages to be the leaves from 0 on, all of them.
func requireLeaves(t *testing.T, messages []jetstream.Msg) {
	t.Helper()
	for i, message := range messages {
		require.Equal(t, fmt.Sprint(i), message.Headers().Get(onward.HeaderLeafIndex))
		require.Equal(t, auditlog.HashLeaf(message.Data()).String(), message.Headers().Get(onward.HeaderLeafHash))
	}
}

// declared is the stream once there is one.
func declared(t *testing.T, conn *natsx.Conn) (stream jetstream.Stream) {
	t.Helper()
	require.Eventually(t, func() bool {
		var err error
		stream, err = conn.JS().Stream(t.Context(), natsx.OnwardStream)
		return err == nil
	}, waitFor, tick)
	return stream
}

// published are the first messages of the stream, as many as asked for.
func published(t *testing.T, conn *natsx.Conn, count int) []jetstream.Msg {
	t.Helper()
	var stream jetstream.Stream
	require.Eventually(t, func() bool {
		stream = declared(t, conn)
		return stream.CachedInfo().State.Msgs >= uint64(count)
	}, waitFor, tick)
	consumer, err := stream.OrderedConsumer(t.Context(), jetstream.OrderedConsumerConfig{})
	require.NoError(t, err)
	batch, err := consumer.Fetch(count)
	require.NoError(t, err)
	var messages []jetstream.Msg
	for message := range batch.Messages() {
		messages = append(messages, message)
	}
	require.Len(t, messages, count)
	return messages
}

func TestStoredEventsArePublishedOnceAndInOrder(t *testing.T) {
	t.Parallel()
	s := &shelf{size: 600, forget: true}
	url := testkit.NATSServer(t).URL()
	conn := serve(t, s, url)
	serve(t, s, url) // another replica
	published(t, conn, 598)
	s.grow(1200)

	messages := published(t, conn, 1198)
	leaf := int64(0)
	for _, message := range messages {
		for leaf == 3 || leaf == 5 {
			leaf++
		}
		require.Equal(t, fmt.Sprint(leaf), message.Headers().Get(onward.HeaderLeafIndex))
		require.Equal(t, auditlog.HashLeaf(message.Data()).String(), message.Headers().Get(onward.HeaderLeafHash))
		require.True(t, strings.HasPrefix(message.Subject(), "auditlog.registry.agent.created"))
		leaf++
	}
	stream, err := conn.JS().Stream(t.Context(), natsx.OnwardStream)
	require.NoError(t, err)
	require.EqualValues(t, 1198, stream.CachedInfo().State.Msgs, "what was published before its cursor was lost is not there twice")
}

func TestWhatThisReplicaHasStoredIsNotReadAgain(t *testing.T) {
	t.Parallel()
	s := &shelf{}
	p, conn := serveOn(t, s, testkit.NATSServer(t).URL())
	p.Stored(0, stored(t, 0, 700))
	s.grow(700)
	requireLeaves(t, published(t, conn, 700))
	require.Empty(t, s.pages())

	p.Stored(710, stored(t, 710, 720)) // another replica has stored those between
	s.grow(720)
	requireLeaves(t, published(t, conn, 720))
	require.NotEmpty(t, s.pages())
}

func TestAPageIsAcknowledgedAsAWhole(t *testing.T) {
	t.Parallel()
	s := &shelf{}
	p, conn := serveOn(t, s, testkit.NATSServer(t).URL())
	require.Eventually(t, func() bool { return s.looks() > 0 }, waitFor, tick, "it has been told that there is a stream")
	p.Stored(0, stored(t, 0, 500))
	before := conn.NC().Stats().InMsgs
	s.grow(500)
	require.Eventually(t, func() bool { return s.cursor() == 500 }, waitFor, tick)
	require.EqualValues(t, 2, conn.NC().Stats().InMsgs-before)
	requireLeaves(t, published(t, conn, 500))
}

func TestAMessageThatTheStreamRefusedComesAgain(t *testing.T) {
	t.Parallel()
	s := &shelf{}
	conn := serve(t, s, testkit.NATSServer(t).URL())
	stream := declared(t, conn)
	narrow, wide := stream.CachedInfo().Config, stream.CachedInfo().Config
	narrow.MaxMsgSize = 600
	_, err := conn.JS().UpdateStream(t.Context(), narrow)
	require.NoError(t, err)

	s.payload = func(i int64) []byte {
		if i != 1 {
			return payload(i)
		}
		return bytes.Replace(payload(i), []byte(`{"n":`), fmt.Appendf(nil, `{"long":%q,"n":`, strings.Repeat("x", 600)), 1)
	}
	s.grow(3) // of which the one in the middle is not taken
	published(t, conn, 2)
	require.Eventually(t, func() bool { return len(s.pages()) > 1 }, waitFor, tick, "it is tried again")
	_, err = conn.JS().UpdateStream(t.Context(), wide)
	require.NoError(t, err)
	published(t, conn, 3)
}

func TestALeafComesNotBeforeThoseBeforeItWhereTheStreamIsAwayForAMoment(t *testing.T) {
	t.Parallel()
	s := &shelf{}
	conn := serve(t, s, testkit.NATSServer(t).URL())
	cfg := declared(t, conn).CachedInfo().Config
	require.NoError(t, conn.JS().DeleteStream(t.Context(), natsx.OnwardStream))
	sent := conn.NC().Stats().OutMsgs
	s.grow(500)
	require.Eventually(t, func() bool { return conn.NC().Stats().OutMsgs >= sent+498 }, waitFor, time.Millisecond)
	_, err := conn.JS().CreateOrUpdateStream(t.Context(), cfg)
	require.NoError(t, err)

	last := -1
	for _, message := range published(t, conn, 498) {
		index, err := strconv.Atoi(message.Headers().Get(onward.HeaderLeafIndex))
		require.NoError(t, err)
		require.Greater(t, index, last)
		last = index
	}
}

func TestWhatTheDatabaseHasNotIsNotPublished(t *testing.T) {
	t.Parallel()
	s := &shelf{}
	p, conn := serveOn(t, s, testkit.NATSServer(t).URL())
	declared(t, conn)
	p.Stored(0, stored(t, 0, 10)) // and then the database was put back to before the last eight
	s.grow(2)
	require.Eventually(t, func() bool { return s.cursor() == 2 }, waitFor, tick)
	requireLeaves(t, published(t, conn, 2))
	require.EqualValues(t, 2, declared(t, conn).CachedInfo().State.Msgs)
}

func TestAReplicaThatDoesNotPublishKeepsNothing(t *testing.T) {
	t.Parallel()
	another := uuid.New()
	s := &shelf{holder: another}
	p, conn := serveOn(t, s, testkit.NATSServer(t).URL())
	declared(t, conn)
	p.Stored(0, stored(t, 0, 2))
	before := s.looks()
	require.Eventually(t, func() bool { return s.looks() > before+1 }, waitFor, tick, "it has looked in vain")
	require.NoError(t, s.Release(t.Context(), another))
	s.grow(2)
	requireLeaves(t, published(t, conn, 2))
	require.NotEmpty(t, s.pages(), "they come out of the database")
}

func TestAPageIsLookedForInTheLastDaysFirst(t *testing.T) {
	t.Parallel()
	s := &shelf{size: 3}
	conn := serve(t, s, testkit.NATSServer(t).URL())
	published(t, conn, 3)
	require.Equal(t, []bool{true}, s.pages(), "all were there")
	s.grow(5)
	require.Equal(t, "4", published(t, conn, 4)[3].Headers().Get(onward.HeaderLeafIndex))
	require.Equal(t, []bool{true, true, false}, s.pages(), "some were not")
}

func TestNoLeafIsPassedOverForRowsThatSomebodyAdded(t *testing.T) {
	t.Parallel()
	s := &shelf{next: 6, size: 600, added: 20}
	conn := serve(t, s, testkit.NATSServer(t).URL())
	leaves := map[string]int{}
	for _, message := range published(t, conn, 594+20) {
		leaves[message.Headers().Get(onward.HeaderLeafIndex)]++
	}
	require.Len(t, leaves, 594)
	require.Equal(t, 21, leaves["7"])
}

func TestAStreamThatIsLostIsMadeAgain(t *testing.T) {
	t.Parallel()
	s := &shelf{size: 2}
	conn := serve(t, s, testkit.NATSServer(t).URL())
	published(t, conn, 2)
	require.NoError(t, conn.JS().DeleteStream(t.Context(), natsx.OnwardStream))
	s.grow(5)
	require.Len(t, published(t, conn, 2), 2, "the leaves 2 and 4")
}

func TestAFailureIsFollowedByAPauseThatGrows(t *testing.T) {
	t.Parallel()
	require.Equal(t, onward.Look, onward.Retry(0), "after a full page, which is followed by no pause")
	require.Equal(t, 2*onward.Look, onward.Retry(onward.Look))
	require.Equal(t, onward.LastRetry, onward.Retry(onward.LastRetry))
}

func TestAReplicaThatEndsGivesItsTurnBack(t *testing.T) {
	t.Parallel()
	s := &shelf{size: 2}
	url := testkit.NATSServer(t).URL()
	t.Run("one replica", func(t *testing.T) {
		published(t, serve(t, s, url), 2)
	})
	require.Equal(t, uuid.Nil, s.publisher())
	s.grow(3)
	published(t, serve(t, s, url), 3)
}
