package quota

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestACounterIsNotLevelWhileSomethingIsCharged(t *testing.T) {
	t.Parallel()
	for name, charge := range map[string]func(l *ledger, acc account) (end func()){
		"to postgres": func(l *ledger, acc account) func() {
			l.charge(acc)
			return func() { l.charged(acc) }
		},
		"to redis": func(l *ledger, acc account) func() {
			entered, _ := l.enter(acc)
			require.True(t, entered)
			l.fellBehind(acc)
			return func() { l.leave(acc, 0) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, acc := newLedger(), account{}
			end := charge(l, acc)
			require.False(t, l.raised(acc, l.catching(acc)))
			end()
			require.True(t, l.raised(acc, l.catching(acc)))
		})
	}
}

func TestACountThatWasReadWhileItWasChargedIsNotTakenForLevel(t *testing.T) {
	t.Parallel()
	l, acc := newLedger(), account{}
	l.charge(acc)
	generation := l.catching(acc)
	l.charged(acc)
	require.False(t, l.raised(acc, generation), "it may have been read before the charge was stored")
	require.True(t, l.raised(acc, l.catching(acc)))
}

func TestACountThatPostgresWasToldOfIsNotCountedThereAgain(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		used   int64
		counts bool
	}{
		"lower": {1, true}, "the same, as after a refund": {2, true}, "higher": {3, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, acc := newLedger(), account{}
			for range 2 {
				entered, _ := l.enter(acc)
				require.True(t, entered)
			}
			require.True(t, l.leave(acc, 2))
			require.EqualValues(t, 2, l.charge(acc))
			require.Equal(t, test.counts, l.leave(acc, test.used))
		})
	}
}

func TestACountThatRoseWhileALowerOneWasWrittenIsStillToBeWritten(t *testing.T) {
	t.Parallel()
	l, acc := newLedger(), account{}
	see := func(used int64) {
		entered, _ := l.enter(acc)
		require.True(t, entered)
		require.True(t, l.leave(acc, used))
	}
	see(5)
	writing := l.unwritten()
	see(6)
	l.written(writing)
	left := l.unwritten()
	require.Len(t, left, 1)
	require.EqualValues(t, 6, left[0].Used)
	l.written(left)
	require.Empty(t, l.unwritten())
}
