package journal

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
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
	sent      []*nats.Msg
}

func (b *broker) Connected() bool { return b.connected }

func (b *broker) PublishMsgAsync(msg *nats.Msg, _ ...jetstream.PublishOpt) (jetstream.PubAckFuture, error) {
	if b.sendErr != nil {
		return nil, b.sendErr
	}
	b.sent = append(b.sent, msg)
	f := future{ok: make(chan *jetstream.PubAck, 1), err: make(chan error, 1)}
	if b.answer != nil {
		b.answer(f)
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

func (s *store) Append(_ context.Context, messages []outbox.Message) error {
	if s.entered != nil {
		s.entered <- struct{}{}
		<-s.release
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
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

// run makes a journal whose Run goes on until the test ends.
func run(t *testing.T, b *broker, s *store) *Journal {
	t.Helper()
	j := New(b, s, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- j.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	return j
}

func TestAnAcknowledgedEventIsDurable(t *testing.T) {
	t.Parallel()
	b, s := &broker{connected: true, answer: func(f future) { f.ok <- &jetstream.PubAck{} }}, &store{}
	require.NoError(t, run(t, b, s).Publish(t.Context(), event())())
	require.Equal(t, "audit.token.token.issued", b.sent[0].Subject)
	stored, _ := s.count()
	require.Zero(t, stored)
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
			s := &store{}
			e := event()
			begun := time.Now()
			require.NoError(t, run(t, b, s).Publish(t.Context(), e)())
			require.Less(t, time.Since(begun), 2*time.Second)
			stored, _ := s.count()
			require.Equal(t, 1, stored)
			require.Equal(t, e.EventID, s.batches[0][0].ID, "under the same id")
		})
	}
}

func TestAnEventThatIsStoredNowhereIsAnError(t *testing.T) {
	t.Parallel()
	s := &store{err: errors.New("away")}
	require.ErrorIs(t, run(t, &broker{}, s).Publish(t.Context(), event())(), s.err)
}

func TestACancelledRequestStillGetsItsEventStored(t *testing.T) {
	t.Parallel()
	s := &store{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, run(t, &broker{}, s).Publish(ctx, event())())
	stored, _ := s.count()
	require.Equal(t, 1, stored)
}

func TestWhatWaitsTogetherIsInsertedTogether(t *testing.T) {
	t.Parallel()
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
	for _, wait := range rest {
		require.NoError(t, wait())
	}
	stored, batches := s.count()
	require.Equal(t, 101, stored)
	require.Equal(t, 2, batches)
}

func TestTheEndOfTheServiceLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	s := &store{}
	j := New(&broker{}, s, slog.New(slog.DiscardHandler))
	waits := []func() error{j.Publish(t.Context(), event()), j.Publish(t.Context(), event())}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, j.Run(ctx))
	for _, wait := range waits {
		require.NoError(t, wait())
	}
}

func TestAnEventThatCannotBeWrittenIsAnError(t *testing.T) {
	t.Parallel()
	e := event()
	e.Metadata = map[string]any{"bad": make(chan int)}
	require.Error(t, New(&broker{connected: true}, &store{}, slog.New(slog.DiscardHandler)).Publish(t.Context(), e)())
}
