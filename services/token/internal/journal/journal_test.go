package journal

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/outbox"
)

// future is an acknowledgement that a test gives, or not.
type future struct {
	jetstream.PubAckFuture

	ok  chan *jetstream.PubAck
	err chan error
}

func (f future) Ok() <-chan *jetstream.PubAck { return f.ok }
func (f future) Err() <-chan error            { return f.err }

type broker struct {
	connected bool
	sendErr   error
	answer    func(future)
	sent      chan publication // where not nil
	stuck     chan struct{}    // where not nil, nothing is sent until it is closed
}

// publication is a message as it was sent, and where its acknowledgement is waited for.
type publication struct {
	*nats.Msg

	options int
	future  future
}

func (b *broker) Connected() bool { return b.connected }

func (b *broker) PublishOnce(msg *nats.Msg, opts ...jetstream.PublishOpt) (jetstream.PubAckFuture, error) {
	if b.stuck != nil {
		<-b.stuck
	}
	if b.sendErr != nil {
		return nil, b.sendErr
	}
	f := future{ok: make(chan *jetstream.PubAck, 1), err: make(chan error, 1)}
	if b.answer != nil {
		b.answer(f)
	}
	if b.sent != nil {
		b.sent <- publication{msg, len(opts), f}
	}
	return f, nil
}

type store struct {
	mu      sync.Mutex
	batches [][]outbox.Message
	err     error
	entered chan struct{}
	release chan struct{}
}

func (s *store) Append(ctx context.Context, messages []outbox.Message) error {
	if s.entered != nil {
		s.entered <- struct{}{}
		<-s.release
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := cmp.Or(ctx.Err(), s.err); err != nil {
		return err
	}
	s.batches = append(s.batches, messages)
	return nil
}

func (s *store) count() (messages, batches int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, batch := range s.batches {
		messages += len(batch)
	}
	return messages, len(s.batches)
}

func event() auditevent.Event {
	id := uuid.Must(uuid.NewV7())
	return auditevent.New(id, time.Now(), "token", auditevent.TokenIssued, &id, auditevent.Origin{}, nil)
}

// idle makes a journal whose Run does not run.
func idle(b *broker, s *store) *Journal { return New("token", b, s, slog.New(slog.DiscardHandler)) }

// run makes a journal whose Run goes on until the test ends.
func run(t *testing.T, b *broker, s *store) *Journal {
	t.Helper()
	j := idle(b, s)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- j.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	return j
}

func acknowledge(f future) { f.ok <- &jetstream.PubAck{} }

// The signature may take longer than an acknowledgement is waited for.
func TestAnAcknowledgementThatIsThereIsNeverTooLate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, s := &broker{connected: true, answer: acknowledge}, &store{err: errors.New("postgres is away")}
		j := run(t, b, s)
		for range 50 { // what is ready at once is chosen from by chance
			wait := j.Publish(t.Context(), event())
			<-time.After(2 * ackWait)
			require.NoError(t, wait())
		}
	})
}

func TestAnAcknowledgedEventIsDurable(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, s := &broker{connected: true, answer: acknowledge, sent: make(chan publication, 1)}, &store{}
		require.NoError(t, run(t, b, s).Publish(t.Context(), event())())
		sent := <-b.sent
		require.Equal(t, "audit.token.token.issued", sent.Subject)
		require.Equal(t, 1, sent.options, "the id by which the stream knows it")
		stored, _ := s.count()
		require.Zero(t, stored)
	})
}

// publishAll publishes n events, and answers their ids and what waits for them.
func publishAll(t *testing.T, j *Journal, n int) (ids []uuid.UUID, waits []func() error) {
	t.Helper()
	for range n {
		e := event()
		ids = append(ids, e.EventID)
		waits = append(waits, j.Publish(t.Context(), e))
	}
	return ids, waits
}

// requireDurable waits for all of them.
func requireDurable(t *testing.T, waits []func() error) {
	t.Helper()
	for _, wait := range waits {
		require.NoError(t, wait())
	}
}

// idsOf are the ids of the events in a message.
func idsOf(t *testing.T, msg *nats.Msg) []uuid.UUID {
	t.Helper()
	var ids []uuid.UUID
	for _, payload := range auditevent.Split(msg.Subject, msg.Data) {
		var e auditevent.Event
		require.NoError(t, json.Unmarshal(payload, &e))
		ids = append(ids, e.EventID)
	}
	return ids
}

func TestWhatComesWhileAMessageIsOnItsWayLeavesTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, s := &broker{connected: true, sent: make(chan publication, 9)}, &store{}
		j := run(t, b, s)
		alone, first := publishAll(t, j, 1)
		before := <-b.sent
		ids, waits := publishAll(t, j, 3)
		require.Empty(t, b.sent, "one message at a time")

		acknowledge(before.future)
		require.NoError(t, first[0]())
		together := <-b.sent
		acknowledge(together.future)

		requireDurable(t, waits)
		require.Equal(t, alone, idsOf(t, before.Msg))
		require.Equal(t, "audit.token.batch", together.Subject)
		require.Equal(t, ids, idsOf(t, together.Msg))
		require.Zero(t, together.options, "several events have no id in common")
		stored, _ := s.count()
		require.Zero(t, stored)
	})
}

func TestMessagesAreBounded(t *testing.T) {
	t.Parallel()
	small, half, huge := event(), event(), event()
	half.RequestID = strings.Repeat("x", messageBytes/2)
	huge.RequestID = strings.Repeat("x", messageBytes)
	for name, test := range map[string]struct {
		events   []auditevent.Event
		messages []int
	}{
		"in events":                            {slices.Repeat([]auditevent.Event{small}, auditevent.MaxBatch+2), []int{auditevent.MaxBatch, 2}},
		"in bytes":                             {[]auditevent.Event{small, half, half, small}, []int{2, 2}},
		"but for one that is larger by itself": {[]auditevent.Event{small, huge, small}, []int{1, 1, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := &broker{connected: true, sent: make(chan publication, 9)}
				j := run(t, b, &store{})
				_, waits := publishAll(t, j, 1)
				first := <-b.sent
				for _, e := range test.events {
					waits = append(waits, j.Publish(t.Context(), e))
				}
				b.answer = acknowledge
				acknowledge(first.future)
				requireDurable(t, waits)
				var messages []int
				for range test.messages {
					sent := <-b.sent
					messages = append(messages, len(idsOf(t, sent.Msg)))
				}
				require.Equal(t, test.messages, messages)
				require.Empty(t, b.sent)
			})
		})
	}
}

func TestOfSeveralMessagesEachHasItsOwnAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, s := &broker{connected: true, sent: make(chan publication, 9)}, &store{}
		j := run(t, b, s)
		_, waits := publishAll(t, j, 1)
		first := <-b.sent
		refused, taken := event(), event()
		refused.RequestID = strings.Repeat("x", messageBytes)
		waits = append(waits, j.Publish(t.Context(), refused), j.Publish(t.Context(), taken))
		acknowledge(first.future)

		(<-b.sent).future.err <- errors.New("maximum payload exceeded")
		acknowledge((<-b.sent).future)

		requireDurable(t, waits)
		stored, _ := s.count()
		require.Equal(t, 1, stored)
		require.Equal(t, refused.EventID, s.batches[0][0].ID)
	})
}

func TestNobodyWaitsForAConnectionThatTakesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, s := &broker{connected: true, stuck: make(chan struct{})}, &store{}
		begun := time.Now()
		_, waits := publishAll(t, run(t, b, s), 200)
		requireDurable(t, waits)
		require.Equal(t, ackWait, time.Since(begun))
		stored, _ := s.count()
		require.Equal(t, 200, stored)
		close(b.stuck)
	})
}

func TestWhatJetStreamDoesNotTakeGoesToTheOutbox(t *testing.T) {
	t.Parallel()
	for name, b := range map[string]*broker{
		"not connected":    {},
		"cannot be sent":   {connected: true, sendErr: errors.New("stalled")},
		"refused":          {connected: true, answer: func(f future) { f.err <- errors.New("no stream") }},
		"not acknowledged": {connected: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := &store{}
				e := event()
				begun := time.Now()
				require.NoError(t, run(t, b, s).Publish(t.Context(), e)())
				require.LessOrEqual(t, time.Since(begun), ackWait)
				stored, _ := s.count()
				require.Equal(t, 1, stored)
				require.Equal(t, e.EventID, s.batches[0][0].ID, "under the same id")
			})
		})
	}
}

func TestAnEventThatIsStoredNowhereIsAnError(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &store{err: errors.New("away")}
		require.ErrorIs(t, run(t, &broker{}, s).Publish(t.Context(), event())(), s.err)
	})
}

func TestACancelledRequestStillGetsItsEventStored(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &store{}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.NoError(t, run(t, &broker{}, s).Publish(ctx, event())())
		stored, _ := s.count()
		require.Equal(t, 1, stored)
	})
}

func TestACancelledRequestStillWaitsForItsAcknowledgement(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, s := &broker{connected: true, sent: make(chan publication, 1)}, &store{}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		wait := run(t, b, s).Publish(ctx, event())
		sent := <-b.sent
		acknowledge(sent.future)
		synctest.Wait()
		require.NoError(t, wait())
		stored, _ := s.count()
		require.Zero(t, stored)
	})
}

func TestALostAcknowledgementHoldsUpNoOtherEvent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, s := &broker{connected: true, sent: make(chan publication, 9)}, &store{}
		j := run(t, b, s)
		begun := time.Now()
		require.NoError(t, j.Publish(t.Context(), event())())
		require.Equal(t, ackWait, time.Since(begun))
		<-b.sent
		wait := j.Publish(t.Context(), event())
		acknowledge((<-b.sent).future)
		require.NoError(t, wait())
		require.Equal(t, ackWait, time.Since(begun), "at once")
		stored, _ := s.count()
		require.Equal(t, 1, stored)
	})
}

func TestWhatWaitsTogetherIsInsertedTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &store{entered: make(chan struct{}, 10), release: make(chan struct{})}
		j := run(t, &broker{}, s)
		first := j.Publish(t.Context(), event())
		<-s.entered // the first insert is under way
		var rest []func() error
		for range 100 {
			rest = append(rest, j.Publish(t.Context(), event()))
		}
		close(s.release)
		require.NoError(t, first())
		requireDurable(t, rest)
		stored, batches := s.count()
		require.Equal(t, 101, stored)
		require.Equal(t, 2, batches)
	})
}

func TestTheEndOfTheServiceLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		j := idle(&broker{}, &store{})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for range 20 { // what is ready at once is chosen from by chance
			waits := make([]func() error, batchSize+1)
			for i := range waits {
				waits[i] = j.Publish(t.Context(), event())
			}
			require.NoError(t, j.Run(ctx))
			requireDurable(t, waits)
		}
	})
}

func TestAnEventThatCannotBeWrittenIsAnError(t *testing.T) {
	t.Parallel()
	e := event()
	e.Metadata = map[string]any{"bad": make(chan int)}
	require.Error(t, idle(&broker{connected: true}, &store{}).Publish(t.Context(), e)())
}
