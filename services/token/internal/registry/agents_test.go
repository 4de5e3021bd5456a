package registry_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/registryapi"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/pkg/testkit"
	"github.com/sentryagent/agentidp/services/token/internal/invalidation"
	"github.com/sentryagent/agentidp/services/token/internal/issue"
	"github.com/sentryagent/agentidp/services/token/internal/registry"
)

type bundle struct {
	agents    *registry.Agents
	epochs    *invalidation.Epochs
	clock     *testkit.Clock
	metrics   *telemetry.Metrics
	following atomic.Bool
	calls     atomic.Int64
	answer    func(id uuid.UUID) (registryapi.Agent, error)
}

func (b *bundle) Agents(_ context.Context, ids []uuid.UUID) (map[uuid.UUID]registryapi.Agent, error) {
	b.calls.Add(1)
	found := map[uuid.UUID]registryapi.Agent{}
	for _, id := range ids {
		agent, err := b.answer(id)
		switch {
		case err == nil:
			found[id] = agent
		case apperr.CodeOf(err) != apperr.AgentNotFound:
			return nil, err
		}
	}
	return found, nil
}

// hold keeps answers back until release. It is for the bubble that it is called in.
func (b *bundle) hold() (release func()) {
	held := make(chan struct{})
	b.answer = func(id uuid.UUID) (registryapi.Agent, error) {
		<-held
		return registryapi.Agent{AgentID: id}, nil
	}
	return func() { close(held) }
}

func setup() *bundle {
	b := &bundle{clock: testkit.NewClock(time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)), metrics: telemetry.NewMetrics()}
	b.following.Store(true)
	b.answer = func(id uuid.UUID) (registryapi.Agent, error) {
		return registryapi.Agent{AgentID: id, Status: registryapi.StatusActive, Owner: "talent", Revision: 3}, nil
	}
	b.epochs = invalidation.New(b.following.Load)
	b.agents = registry.New(registry.Config{Client: b, Epochs: b.epochs, Clock: b.clock.Now, CacheRequests: b.metrics.CacheRequests})
	return b
}

func (b *bundle) known(id uuid.UUID) bool {
	_, ok, _ := b.agents.Known(id)
	return ok
}

func TestAnAgentIsRememberedUntilItChangesOrGetsOld(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		happens func(*bundle, uuid.UUID)
		known   bool
	}{
		"nothing":                          {func(*bundle, uuid.UUID) {}, true},
		"30 seconds":                       {func(b *bundle, _ uuid.UUID) { b.clock.Advance(30 * time.Second) }, true},
		"more than 30 seconds":             {func(b *bundle, _ uuid.UUID) { b.clock.Advance(30*time.Second + 1) }, false},
		"5 seconds without changes":        {func(b *bundle, _ uuid.UUID) { b.following.Store(false); b.clock.Advance(5 * time.Second) }, true},
		"more than 5 seconds without them": {func(b *bundle, _ uuid.UUID) { b.following.Store(false); b.clock.Advance(6 * time.Second) }, false},
		"a change":                         {func(b *bundle, id uuid.UUID) { b.epochs.Changed(id) }, false},
		"a gap":                            {func(b *bundle, _ uuid.UUID) { b.epochs.Missed() }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, id := setup(), uuid.Must(uuid.NewV7())
			require.False(t, b.known(id))
			agent, err := b.agents.Agent(t.Context(), id)
			require.NoError(t, err)
			require.Equal(t, issue.Agent{ID: id, Status: issue.StatusActive, Owner: "talent", Revision: 3}, agent)
			row.happens(b, id)
			require.Equal(t, row.known, b.known(id))
		})
	}
}

func TestAgentsThatAreUsedAreRenewedManyAtOnce(t *testing.T) {
	t.Parallel()
	b, idle := setup(), uuid.Must(uuid.NewV7())
	go func() { _ = b.agents.Run(t.Context()) }()
	busy := make([]uuid.UUID, registryapi.MaxAgents+20)
	for i := range busy {
		busy[i] = uuid.Must(uuid.NewV7())
		_, err := b.agents.Agent(t.Context(), busy[i])
		require.NoError(t, err)
	}
	_, err := b.agents.Agent(t.Context(), idle)
	require.NoError(t, err)
	use := func() (known int) {
		for _, id := range busy {
			if b.known(id) {
				known++
			}
		}
		return known
	}
	before := b.calls.Load()
	asked := func(calls int64) func() bool { return func() bool { return b.calls.Load()-before == calls } }

	b.clock.Advance(10 * time.Second)
	require.Equal(t, len(busy), use(), "too young to be renewed")
	b.clock.Advance(time.Second)
	require.Equal(t, len(busy), use())
	require.Eventually(t, asked(2), time.Minute, time.Millisecond, "one call for a hundred of them")
	b.clock.Advance(20 * time.Second)
	require.False(t, b.known(idle), "who is not used gets old")
	require.Eventually(t, func() bool { return use() == len(busy) }, time.Minute, time.Millisecond)
	require.Eventually(t, asked(4), time.Minute, time.Millisecond)
}

func TestAnAgentThatIsUsedWhileItIsRenewedIsNotRenewedAgain(t *testing.T) {
	t.Parallel()
	b, busy, other := setup(), uuid.Must(uuid.NewV7()), uuid.Must(uuid.NewV7())
	for _, id := range []uuid.UUID{busy, other} {
		_, err := b.agents.Agent(t.Context(), id)
		require.NoError(t, err)
	}
	asked, answer := make(chan uuid.UUID), make(chan struct{})
	b.answer = func(id uuid.UUID) (registryapi.Agent, error) {
		asked <- id
		<-answer
		return registryapi.Agent{AgentID: id}, nil
	}
	go func() { _ = b.agents.Run(t.Context()) }()
	b.clock.Advance(11 * time.Second)
	require.True(t, b.known(busy))
	require.Equal(t, busy, <-asked)
	require.True(t, b.known(busy))
	answer <- struct{}{}
	require.True(t, b.known(other))
	require.Equal(t, other, <-asked, "and nobody else")
	answer <- struct{}{}
}

func TestWhatCannotBeRenewedOrChangesMeanwhileIsNotBelievedForLonger(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		happens func(b *bundle, id uuid.UUID) error
		after   time.Duration
	}{
		"the registry is away": {func(*bundle, uuid.UUID) error { return apperr.Unavailable(errors.New("away")) }, 20 * time.Second},
		"a change":             {func(b *bundle, id uuid.UUID) error { b.epochs.Changed(id); return nil }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, id := setup(), uuid.Must(uuid.NewV7())
			running, stop := context.WithCancel(t.Context())
			defer stop()
			ended := make(chan error, 1)
			go func() { ended <- b.agents.Run(running) }()
			_, err := b.agents.Agent(t.Context(), id)
			require.NoError(t, err)
			b.answer = func(id uuid.UUID) (registryapi.Agent, error) {
				return registryapi.Agent{AgentID: id}, row.happens(b, id)
			}
			b.clock.Advance(11 * time.Second)
			require.True(t, b.known(id))
			require.Eventually(t, func() bool { return b.calls.Load() == 2 }, time.Minute, time.Millisecond)
			stop()
			require.NoError(t, <-ended, "what was under way has been remembered, if at all")
			b.clock.Advance(row.after)
			require.False(t, b.known(id))
		})
	}
}

func TestAnUnknownAgentIsRememberedAndAnOutageIsNot(t *testing.T) {
	t.Parallel()
	b, id := setup(), uuid.Must(uuid.NewV7())
	b.answer = func(uuid.UUID) (registryapi.Agent, error) {
		return registryapi.Agent{}, apperr.Unavailable(errors.New("away"))
	}
	_, err := b.agents.Agent(t.Context(), id)
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
	require.False(t, b.known(id))

	b.answer = func(uuid.UUID) (registryapi.Agent, error) {
		return registryapi.Agent{}, apperr.New(apperr.AgentNotFound, "none")
	}
	_, err = b.agents.Agent(t.Context(), id)
	require.ErrorIs(t, err, issue.ErrUnknownAgent)
	_, ok, err := b.agents.Known(id)
	require.True(t, ok)
	require.ErrorIs(t, err, issue.ErrUnknownAgent)
	require.InDelta(t, 1, testutil.ToFloat64(b.metrics.CacheRequests.WithLabelValues("agent", "hit")), 0)
	require.InDelta(t, 1, testutil.ToFloat64(b.metrics.CacheRequests.WithLabelValues("agent", "miss")), 0)
}

func TestAChangeSpoilsTheAnswerThatIsOnItsWay(t *testing.T) {
	t.Parallel()
	b, id := setup(), uuid.Must(uuid.NewV7())
	b.answer = func(id uuid.UUID) (registryapi.Agent, error) {
		b.epochs.Changed(id)
		return registryapi.Agent{AgentID: id}, nil
	}
	_, err := b.agents.Agent(t.Context(), id)
	require.NoError(t, err)
	require.False(t, b.known(id))
}

func TestWhoAsksAtTheSameTimeSharesOneCall(t *testing.T) {
	t.Parallel()
	b, id := setup(), uuid.Must(uuid.NewV7())
	synctest.Test(t, func(t *testing.T) {
		release := b.hold()
		impatient, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		group.Go(func() {
			_, err := b.agents.Agent(impatient, id)
			require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
		})
		synctest.Wait()
		for range 5 {
			group.Go(func() {
				agent, err := b.agents.Agent(t.Context(), id)
				require.NoError(t, err, "the impatient one must not spoil it for the others")
				require.Equal(t, id, agent.ID)
			})
		}
		synctest.Wait()
		cancel()
		synctest.Wait()
		release()
		group.Wait()
	})
	require.EqualValues(t, 1, b.calls.Load())
}

func TestWhoAsksAfterAChangeIsGivenNoAnswerFromBeforeIt(t *testing.T) {
	t.Parallel()
	b, id := setup(), uuid.Must(uuid.NewV7())
	synctest.Test(t, func(t *testing.T) {
		release := b.hold()
		var group sync.WaitGroup
		for range 2 {
			group.Go(func() {
				if _, err := b.agents.Agent(t.Context(), id); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
			b.epochs.Changed(id)
		}
		release()
		group.Wait()
	})
	require.EqualValues(t, 2, b.calls.Load())
}

func TestWhoAsksForNowIsGivenNoAnswerToAnEarlierQuestion(t *testing.T) {
	t.Parallel()
	b, id := setup(), uuid.Must(uuid.NewV7())
	synctest.Test(t, func(t *testing.T) {
		held, heldAgain := make(chan struct{}), make(chan struct{})
		var suspended atomic.Bool // and nobody tells
		b.answer = func(id uuid.UUID) (registryapi.Agent, error) {
			status := registryapi.StatusActive
			if suspended.Load() {
				status = registryapi.StatusSuspended
			}
			<-held
			if status == registryapi.StatusSuspended {
				<-heldAgain
			}
			return registryapi.Agent{AgentID: id, Status: status}, nil
		}
		var group sync.WaitGroup
		ask := func(ask func(context.Context, uuid.UUID) (issue.Agent, error), want issue.Status) {
			group.Go(func() {
				if agent, err := ask(t.Context(), id); err != nil || agent.Status != want {
					t.Errorf("%v, %v", agent.Status, err)
				}
			})
			synctest.Wait()
		}
		ask(b.agents.Agent, issue.StatusActive)
		suspended.Store(true)
		for range 90 {
			ask(b.agents.AgentNow, issue.StatusSuspended)
		}
		close(held)
		synctest.Wait()
		close(heldAgain)
		group.Wait()
	})
	require.EqualValues(t, 2, b.calls.Load(), "one that was under way, and one for all others")
}

func TestWhoAsksForNowDoesNotWaitForEver(t *testing.T) {
	t.Parallel()
	b, id := setup(), uuid.Must(uuid.NewV7())
	synctest.Test(t, func(t *testing.T) {
		release := b.hold()
		defer release()
		go func() { _, _ = b.agents.Agent(t.Context(), id) }()
		synctest.Wait()
		_, err := b.agents.AgentNow(t.Context(), id)
		require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
	})
}

func TestAnAnswerIsAsOldAsItsQuestion(t *testing.T) {
	t.Parallel()
	b, id := setup(), uuid.Must(uuid.NewV7())
	b.answer = func(id uuid.UUID) (registryapi.Agent, error) {
		b.clock.Advance(3 * time.Second) // it may be from before that
		return registryapi.Agent{AgentID: id}, nil
	}
	_, err := b.agents.Agent(t.Context(), id)
	require.NoError(t, err)
	b.clock.Advance(27 * time.Second)
	require.True(t, b.known(id))
	b.clock.Advance(1)
	require.False(t, b.known(id))
}

func TestAgentsAreLookedUpTogetherWhileCallsAreUnderWay(t *testing.T) {
	t.Parallel()
	b := setup() // outside of the bubble, as the cache has a goroutine that never ends
	synctest.Test(t, func(t *testing.T) {
		leave := make(chan struct{})
		b.answer = func(id uuid.UUID) (registryapi.Agent, error) {
			<-leave
			if id[0] == 0xff {
				return registryapi.Agent{}, apperr.New(apperr.AgentNotFound, "none")
			}
			return registryapi.Agent{AgentID: id, Status: registryapi.StatusActive}, nil
		}
		var all sync.WaitGroup
		for n := range 90 {
			all.Go(func() {
				id := uuid.UUID{1: byte(n), 2: 1}
				want := error(nil)
				if n%3 == 0 {
					id[0], want = 0xff, issue.ErrUnknownAgent
				}
				agent, err := b.agents.Agent(t.Context(), id)
				if !errors.Is(err, want) || err == nil && agent.ID != id {
					t.Errorf("%v: %v, %v", id, agent.ID, err)
				}
			})
			synctest.Wait()
		}
		close(leave)
		all.Wait()
		require.EqualValues(t, 5, b.calls.Load(), "four that were under way, and all others")
	})
}
