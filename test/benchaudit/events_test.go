package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/auditlog"
	"github.com/sentryagent/agentidp/pkg/testkit"
)

func TestGeneratedEventsAreRealAndTheSameForTheSameSeed(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 22, 1, 2, 3, 456789999, time.UTC)
	one, two, other := newGenerator(1, 2), newGenerator(1, 2), newGenerator(2, 2)
	seen, agentsSeen := map[string]bool{}, map[string]int{}
	for n := range 2000 {
		at = at.Add(time.Millisecond)
		e := one.make(at)
		require.Equal(t, e, two.make(at))
		require.NotEqual(t, e.payload, other.make(at).payload)

		parsed := testkit.Event(t, e.payload)
		require.Equal(t, e.id, parsed.EventID)
		require.Equal(t, e.at, parsed.Timestamp)
		require.Equal(t, e.agent, parsed.AgentID.String())
		require.Equal(t, byte(7), byte(e.id.Version()))
		leaf, err := auditlog.Leaf(e.payload)
		require.NoError(t, err)
		require.Equal(t, string(leaf), string(e.payload), "it is canonical")

		row := string(e.appendRow(nil, int64(n)))
		require.Len(t, strings.Split(row, "\t"), 1+strings.Count(columns, ","))
		require.NotContains(t, row, `\`)
		seen[e.id.String()] = true
		agentsSeen[e.agent]++
	}
	require.Len(t, seen, 2000)
	require.Greater(t, agentsSeen[agentID(1, 0).String()], 100, "a few agents have most of the events")
}

func TestRowsAreReadInWholeAndInOrder(t *testing.T) {
	t.Parallel()
	r := &rowReader{rows: 3, next: func(dst []byte, n int64) []byte { return append(dst, strings.Repeat(string(rune('a'+n)), 5)...) }}
	var read strings.Builder
	buffer := make([]byte, 4)
	for {
		n, err := r.Read(buffer)
		read.Write(buffer[:n])
		if err != nil {
			break
		}
	}
	require.Equal(t, "aaaaabbbbbccccc", read.String())
}

func TestAListWithoutEventsIsNoAnswerWhereThereMustBeSome(t *testing.T) {
	t.Parallel()
	const none, some = `{"data":[],"total":0}`, `{"data":[{"eventId":"0190c3a4-5b6d-7c11-8f0e-2f3b1d9a7c10"}],"total":1}`
	for name, test := range map[string]struct {
		list    list
		answers []string
		wrong   bool
	}{
		"all":                                {list{}, []string{some, some}, false},
		"all, one empty":                     {list{}, []string{some, none}, true},
		"a day, one empty":                   {list{Day: true}, []string{some, none}, true},
		"an action that never happens":       {list{Action: true}, []string{some, none}, false},
		"no action at all":                   {list{Action: true}, []string{none, none}, true},
		"a position behind which nothing is": {list{Day: true, Deep: true}, []string{some, none}, false},
		"nothing behind any position":        {list{Deep: true}, []string{none, none}, true},
		"agents without events":              {list{Agent: true}, []string{none, none}, false},
	} {
		m := &matches{list: test.list}
		var err error
		for _, answer := range test.answers {
			err = errors.Join(err, m.check(200, []byte(answer)))
		}
		err = errors.Join(err, m.err())
		require.Equal(t, test.wrong, err != nil, "%s: %v", name, err)
	}
	require.Error(t, (&matches{}).check(503, []byte(some)))
}

func TestOptions(t *testing.T) {
	t.Parallel()
	o, err := parseOptions(nil)
	require.NoError(t, err)
	require.Equal(t, 10_000_000, o.events)
	require.Equal(t, 90, o.days)
	for _, args := range [][]string{{"x"}, {"-days", "0"}, {"-days", "91"}, {"-events", "10"}, {"-seconds", "0"}, {"-seed", "-1"}} {
		_, err := parseOptions(args)
		require.Error(t, err, args)
	}
}

func TestTheReportShowsAndJudgesEverything(t *testing.T) {
	t.Parallel()
	r := &results{
		Lists:    []list{{Agent: true, latency: latency{P99ms: 12}}, {Deep: true, Day: true, latency: latency{P99ms: 31}}},
		Get:      &latency{},
		Proof:    &latency{P99ms: 9},
		Exports:  []exported{{Name: "all", Lines: 10, Seconds: 2, MemoryPeak: 99 << 20, Whole: true}},
		LagP99ms: 1001, IngestPerSecond: 5001, IngestCPUms: map[string]float64{"audit": 0.1},
	}
	r.judge()
	reached := map[string]bool{}
	for _, one := range r.Targets {
		reached[one.Name] = one.Reached
	}
	require.Equal(t, map[string]bool{
		"lists, p99 of the slowest kind": false, "proofs, p99, one connection": true, "events stored per second": true,
		"lag at 0 events per second, p99": false, "peak memory of audit, export of all, read whole": true,
	}, reached)
	text := r.markdown()
	for _, part := range []string{"31.0 ms (one day, deep cursor) | **missed**", "list: one agent, first page", "| all | 10 | yes | 2.0 | 5 |", "audit 0.100"} {
		require.Contains(t, text, part)
	}
}
