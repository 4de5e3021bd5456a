package main

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/test/internal/rig"
)

func TestASeedIsItsSchedule(t *testing.T) {
	t.Parallel()
	all := everyTarget(rig.Names(2))
	require.Equal(t, plan(7, time.Hour, all), plan(7, time.Hour, all))
	require.NotEqual(t, plan(7, time.Hour, all), plan(8, time.Hour, all))
	var shown bytes.Buffer
	list(&shown, []fault{{at: 3 * time.Second, length: 1500 * time.Millisecond, kind: stall, target: "token-2"}, {kind: empty, target: "redis"}})
	require.Equal(t, "     3.0s  freeze token-2 for 1.5s\n     0.0s  empty redis\n", shown.String())
}

func TestAScheduleStrikesEverythingAndLeavesTimeToHeal(t *testing.T) {
	t.Parallel()
	all := everyTarget(rig.Names(2))
	for seed := range uint64(50) {
		schedule := plan(seed, 30*time.Minute, all)
		struck := map[fault]int{}
		long := map[string]bool{}
		away := map[string]time.Duration{}
		for _, f := range schedule {
			require.GreaterOrEqual(t, f.at, away[f.target], "seed %d strikes %s while it is away", seed, f.target)
			away[f.target] = f.end()
			require.Less(t, f.end(), 30*time.Minute)
			require.LessOrEqual(t, f.length, 20*time.Second)
			if f.kind == stall && f.length != 10*time.Second {
				require.GreaterOrEqual(t, f.length, 16*time.Second)
				require.NotContains(t, rig.Servers(), f.target)
				long[rig.Program(f.target)] = true
			}
			struck[fault{kind: f.kind, target: f.target}]++
		}
		for _, name := range rig.Services() {
			require.True(t, long[name], "seed %d never freezes %s until another has followed", seed, name)
		}
		for _, card := range all.deck() {
			require.Positive(t, struck[card], "seed %d never does: %s", seed, card)
		}
	}
}

func TestTwoMinutesInCIStrikeEveryKindOfThing(t *testing.T) {
	t.Parallel()
	struck := map[string]bool{}
	for _, f := range plan(seedOfCI, durationOfCI, everyTarget(rig.Names(replicas))) {
		if f.kind == stall && f.length > stallFor {
			struck["long freeze "+rig.Program(f.target)] = true
		}
		struck[string(f.kind)+" "+rig.Program(f.target)] = true
	}
	for _, name := range slices.Concat(rig.Services(), rig.Servers()) {
		require.True(t, struck["kill "+name], name)
		require.True(t, struck["freeze "+name], name)
		require.True(t, struck["hang and kill "+name], name)
	}
	for _, name := range rig.Services() {
		require.True(t, struck["long freeze "+name], name)
	}
	require.True(t, struck["empty redis"])
	require.True(t, struck["delete consumers AUDIT"])
	require.True(t, struck["delete consumers LIFECYCLE"])
}
