package together_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/together"
)

var config = together.Config{UnderWay: 2, Most: 8, Timeout: time.Minute}

// ferry carries questions when it is told to, and answers each with itself.
type ferry struct {
	arrived chan []string
	leave   chan struct{}
	trips   *together.Trips[string, string]
	waiters sync.WaitGroup
}

func newFerry() *ferry {
	f := &ferry{arrived: make(chan []string, 10), leave: make(chan struct{})}
	f.trips = together.New(config, func(_ context.Context, questions []string) []string {
		f.arrived <- questions
		<-f.leave
		return questions
	})
	return f
}

// newBusyFerry is one with as many trips under way as there may be.
func newBusyFerry(t *testing.T) *ferry {
	t.Helper()
	f := newFerry()
	for range config.UnderWay {
		f.ask(t, "first")
		<-f.arrived
	}
	return f
}

// ask asks in the background, and has the answer checked.
func (f *ferry) ask(t *testing.T, question string) {
	t.Helper()
	f.waiters.Go(func() {
		if answer, err := f.trips.Ask(t.Context(), question); err != nil || answer != question {
			t.Errorf("%s: answered %q, %v", question, answer, err)
		}
	})
	synctest.Wait()
}

func TestWhatIsAskedMeanwhileGoesTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFerry()
		f.ask(t, "a")
		require.Equal(t, []string{"a"}, <-f.arrived, "nobody waits for company")
		f.ask(t, "b")
		require.Equal(t, []string{"b"}, <-f.arrived, "nor for one trip that is under way")
		for _, question := range []string{"c", "d", "e"} {
			f.ask(t, question)
		}
		require.Empty(t, f.arrived)
		f.leave <- struct{}{}
		require.Equal(t, []string{"c", "d", "e"}, <-f.arrived)
		f.leave <- struct{}{}
		f.leave <- struct{}{}
		f.waiters.Wait()

		f.ask(t, "f")
		f.ask(t, "g")
		require.Equal(t, []string{"f"}, <-f.arrived, "places under way were given up")
		require.Equal(t, []string{"g"}, <-f.arrived)
		close(f.leave)
		f.waiters.Wait()
	})
}

func TestWhoBeginsWaitsOnlyForTheAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFerry()
		var waits []func() (string, error)
		for _, question := range []string{"a", "b", "c", "d"} {
			waits = append(waits, f.trips.Begin(t.Context(), question))
			synctest.Wait()
		}
		require.Equal(t, []string{"a"}, <-f.arrived, "at once")
		require.Equal(t, []string{"b"}, <-f.arrived)
		require.Empty(t, f.arrived, "there are as many under way as there may be")
		f.leave <- struct{}{}
		require.Equal(t, []string{"c", "d"}, <-f.arrived)
		close(f.leave)
		for i, wait := range waits {
			answer, err := wait()
			require.NoError(t, err)
			require.Equal(t, string(rune('a'+i)), answer)
		}
		synctest.Wait()
		f.trips.Begin(t.Context(), "e")
		f.trips.Begin(t.Context(), "f")
		synctest.Wait()
		require.Len(t, f.arrived, 2, "places under way were given up")
	})
}

func TestWhoComesLateForAnAnswerFindsIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFerry()
		close(f.leave)
		for range 50 { // what is ready at once is chosen from by chance
			ctx, leave := context.WithCancel(t.Context())
			wait := f.trips.Begin(ctx, "a")
			<-f.arrived
			synctest.Wait()
			leave()
			answer, err := wait()
			require.NoError(t, err)
			require.Equal(t, "a", answer)
		}
	})
}

func TestWhoBeganAndLeavesIsNotCarried(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newBusyFerry(t)
		hurry, leave := context.WithCancel(t.Context())
		gone := f.trips.Begin(hurry, "gone")
		stays := f.trips.Begin(t.Context(), "stays")
		leave()
		_, err := gone()
		require.ErrorIs(t, err, context.Canceled)
		f.leave <- struct{}{}
		require.Equal(t, []string{"stays"}, <-f.arrived)
		close(f.leave)
		answer, err := stays()
		require.NoError(t, err)
		require.Equal(t, "stays", answer)
		f.waiters.Wait()
	})
}

func TestATripIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newBusyFerry(t)
		for range config.Most + 3 {
			f.ask(t, "more")
		}
		f.leave <- struct{}{}
		require.Len(t, <-f.arrived, config.Most)
		f.leave <- struct{}{}
		require.Len(t, <-f.arrived, 3)
		close(f.leave)
		f.waiters.Wait()
	})
}

func TestWhoLeavesIsNotCarriedAndTheOthersGetTheirAnswers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newBusyFerry(t)
		hurry, leave := context.WithCancel(t.Context())
		left := make(chan error, config.Most)
		for range config.Most {
			go func() {
				_, err := f.trips.Ask(hurry, "gone")
				left <- err
			}()
		}
		synctest.Wait()
		f.ask(t, "stays")
		leave()
		for range config.Most {
			require.ErrorIs(t, <-left, context.Canceled)
		}
		f.leave <- struct{}{}
		require.Equal(t, []string{"stays"}, <-f.arrived, "and room is not lost to them")
		close(f.leave)
		f.waiters.Wait()
	})
}

func TestATripOfOneEndsWithItsContextAndASharedOneWithItsTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		trips := together.New(config, func(ctx context.Context, questions []string) []error {
			<-ctx.Done()
			answers := make([]error, len(questions))
			for i := range answers {
				answers[i] = ctx.Err()
			}
			return answers
		})
		mine, end := context.WithCancel(t.Context())
		var alone, shared sync.WaitGroup
		for range config.UnderWay {
			alone.Go(func() {
				if answer, err := trips.Ask(mine, "mine"); err != nil || answer == nil {
					t.Errorf("answered %v, %v", answer, err)
				}
			})
		}
		synctest.Wait()
		shared.Go(func() {
			if answer, err := trips.Ask(t.Context(), "ours"); err != nil || answer == nil {
				t.Errorf("answered %v, %v", answer, err)
			}
		})
		synctest.Wait()
		end()
		alone.Wait()
		began := time.Now()
		shared.Wait()
		require.Equal(t, config.Timeout, time.Since(began))
	})
}

func TestWhatATripLosesIsAnError(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(questions []string) []string{
		"a panic":     func([]string) []string { panic("the ferry sank") },
		"few answers": func(questions []string) []string { return questions[:1] },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				leave := make(chan struct{})
				trips := together.New(config, func(_ context.Context, questions []string) []string {
					<-leave
					if len(questions) == 1 {
						return questions
					}
					return lose(questions)
				})
				errs := make(chan error, 10)
				for range cap(errs) {
					go func() {
						_, err := trips.Ask(t.Context(), "q")
						errs <- err
					}()
					synctest.Wait()
				}
				close(leave)
				lost := 0
				for range cap(errs) {
					if err := <-errs; err != nil {
						require.ErrorIs(t, err, together.ErrLost)
						lost++
					}
				}
				require.GreaterOrEqual(t, lost, config.Most-1, "nobody waits for ever")
				_, err := trips.Ask(t.Context(), "after it")
				require.NoError(t, err, "and trips go on")
			})
		})
	}
}
