package onward_test

import (
	"context"
	"fmt"
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
	asked  []bool    // for each call of Rows, whether it was for the last days
}

func (s *shelf) Lease(_ context.Context, holder uuid.UUID, _ time.Duration) (onward.Due, bool, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
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
	}
	return rows, nil
}

func (s *shelf) grow(size int64) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.size = size
}

func payload(i int64) []byte {
	return fmt.Appendf(nil, `{"schemaVersion":1,"eventId":"%s","timestamp":"2026-11-22T09:14:03Z","action":"agent.created",
		"outcome":"success","service":"registry","metadata":{"n":%d}}`, uuid.NewSHA1(uuid.Nil, fmt.Append(nil, i)), i)
}

// serve runs a publisher of one replica until the test ends.
func serve(t *testing.T, s *shelf, url string) *natsx.Conn {
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
	return conn
}

// published are the first messages of the stream, as many as asked for.
func published(t *testing.T, conn *natsx.Conn, count int) []jetstream.Msg {
	t.Helper()
	var stream jetstream.Stream
	require.Eventually(t, func() bool {
		var err error
		stream, err = conn.JS().Stream(t.Context(), natsx.OnwardStream)
		return err == nil && stream.CachedInfo().State.Msgs >= uint64(count)
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

func TestAPageIsLookedForInTheLastDaysFirst(t *testing.T) {
	t.Parallel()
	s := &shelf{size: 3}
	conn := serve(t, s, testkit.NATSServer(t).URL())
	published(t, conn, 3)
	s.mutex.Lock()
	require.Equal(t, []bool{true}, s.asked, "all were there")
	s.mutex.Unlock()
	s.grow(5)
	require.Equal(t, "4", published(t, conn, 4)[3].Headers().Get(onward.HeaderLeafIndex))
	s.mutex.Lock()
	require.Equal(t, []bool{true, true, false}, s.asked, "some were not")
	s.mutex.Unlock()
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
	s.mutex.Lock()
	require.Equal(t, uuid.Nil, s.holder)
	s.mutex.Unlock()
	s.grow(3)
	published(t, serve(t, s, url), 3)
}
