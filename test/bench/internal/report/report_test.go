package report

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/test/bench/internal/rawsign"
	"github.com/sentryagent/agentidp/test/internal/proc"
	"github.com/sentryagent/agentidp/test/internal/rig"
)

// measured is a measurement with the figures that targets stand on.
func measured(c Case, perSecond, ratio, p99 float64) Measurement {
	return Measurement{
		Case: c, Rounds: 1, PerSecond: perSecond, Ratio: ratio, P99ms: p99, RawRSA: rawsign.Rate{PerSecond: perSecond / ratio, CPUms: 1},
		RawOwn: rawsign.Rate{PerSecond: 2 * perSecond}, CPUms: map[string]float64{"token": 1.2, "bench": 0.1}, CPUAllMs: 1 / ratio,
	}
}

func TestTheMedianOfRoundsIsTakenFigureByFigure(t *testing.T) {
	t.Parallel()
	one, other := token("RS256"), token("ES256")
	rounds := []Measurement{
		measured(one, 900, 0.7, 30), measured(other, 5000, 4, 9), measured(one, 1000, 0.6, 50), measured(one, 800, 0.8, 40),
	}
	rounds[0].Answered, rounds[2].Answered, rounds[3].Answered = 1, 2, 3
	rounds[2].Behind, rounds[2].CPUms = 7, map[string]float64{"token": 3}
	joined := Medians(rounds)
	require.Len(t, joined, 2)
	require.Equal(t, one, joined[0].Case, "in the order in which the cases came")
	require.Equal(t, 3, joined[0].Rounds)
	require.InDelta(t, 900, joined[0].PerSecond, 0)
	require.InDelta(t, 0.7, joined[0].Ratio, 0)
	require.InDelta(t, 40, joined[0].P99ms, 0)
	require.InDelta(t, 1.2, joined[0].CPUms["token"], 0)
	require.Equal(t, 6, joined[0].Answered)
	require.EqualValues(t, 7, joined[0].Behind, "the worst")
	require.Equal(t, 1, joined[1].Rounds)
	require.Equal(t, other, joined[1].Case)
}

func TestWhatATokenCostsIsLessWhatIsCountedWithoutAny(t *testing.T) {
	t.Parallel()
	c := Counts{
		Tokens: 1000,
		Load:   ServerCalls{Seconds: 2, RedisReads: 1024, Published: 1000},
		Idle:   ServerCalls{Seconds: 4, RedisReads: 48, Published: 0},
	}
	require.InDelta(t, 1, c.PerToken(func(s ServerCalls) float64 { return s.RedisReads }), 1e-9)
	require.InDelta(t, 1, c.PerToken(func(s ServerCalls) float64 { return s.Published }), 1e-9)
	c.Idle.RedisReads = 1e6
	require.Zero(t, c.PerToken(func(s ServerCalls) float64 { return s.RedisReads }), "never less than nothing")
	require.Zero(t, Counts{}.PerToken(func(ServerCalls) float64 { return 1 }))
}

// good are results that reach everything.
func good() *Results {
	calls := func(statements, reads, published float64) ServerCalls {
		return ServerCalls{Seconds: 1, Statements: map[string]float64{"token_app": statements, "audit_app": 99}, RedisReads: reads, Published: published}
	}
	samples := func(mib ...int64) []int64 {
		for i := range mib {
			mib[i] <<= 20
		}
		return mib
	}
	return &Results{
		Measurements: []Measurement{
			measured(token("RS256"), 1000, 0.75, 60), measured(token("ES256"), 4000, 2.8, 15), measured(token("EdDSA"), 5000, 3.5, 12),
			measured(Case{Kind: KindIntrospect, Algorithm: "RS256", Connections: 32, Agents: 100}, 6000, 4.5, 9),
			measured(Case{Kind: KindRead, Algorithm: "RS256", Connections: 32, Agents: 100}, 4000, 3, 9),
			measured(InTurnWith(KindIntrospect), 1100, 0.8, 55), measured(InTurnWith(KindRead), 1000, 0.75, 60),
			measured(Case{Kind: KindCrowd, Algorithm: "RS256", Connections: 32, Agents: 1}, 1000, 0.75, 60),
			measured(Case{Kind: KindCrowd, Algorithm: "RS256", Connections: 32, Agents: 10000}, 1000, 0.70, 60),
			measured(Case{Kind: KindJWKS, Algorithm: "RS256", Connections: 32}, 20000, 14, 2),
			measured(Case{Kind: KindCold, Algorithm: "RS256", Connections: 8, Agents: 150, Limits: true}, 30, 0.02, 300),
		},
		RawBcrypt: 33,
		Counts: []Counts{
			{Tokens: 1000, Load: calls(20, 5, 1000), Idle: calls(20, 5, 0)},
			{
				Limits: true, Tokens: 1000, Load: calls(30, 1005, 1000), Idle: calls(20, 5, 0),
				Queries: []rig.Statement{{Calls: 10, Query: "-- name: quota_raise INSERT INTO token.quota_usage"}, {Calls: 20, Query: "SELECT"}},
			},
		},
		Profile:   &Profile{Share: map[string]float64{"signing": 0.8, "rest": 0.1, "http": 0.1}, Rest: map[string]float64{"pkg/httpx": 0.07, "x": 0.03}},
		Startup:   map[string]float64{"token": 150},
		Idle:      map[string]proc.Memory{"token": {RSS: 50 << 20}},
		UnderLoad: map[string]proc.Memory{"token": {RSS: 60 << 20, Peak: 80 << 20}, "nats": {Peak: 500 << 20}},
		Soak:      &Soak{Seconds: 10, RSS: map[string][]int64{"token": samples(50, 80, 81, 80, 81)}},
		Floods:    []Flood{{Name: "from somewhere", Left: 0.6, ColdAsked: 9, AttackBusy: 0.95, Answers: map[string]int64{"401": 7}, Unanswered: 3}},
		Audit:     map[string]AuditBalance{"token.issued": {Answered: 5, Stored: 5}},
	}
}

func missed(r *Results) []string {
	var names []string
	for _, target := range Targets(r) {
		if !target.Reached {
			names = append(names, target.Name)
		}
	}
	return names
}

func TestTargetsAreMissedOneByOne(t *testing.T) {
	t.Parallel()
	require.Empty(t, missed(good()))
	require.Len(t, Targets(good()), 21)
	for name, worsen := range map[string]func(r *Results){
		"RS256, warm tokens ÷ raw RSA-2048 signatures": func(r *Results) {
			r.Measurements[0].Ratio = 0.69
		},
		"EdDSA ÷ RS256":                                    func(r *Results) { r.Measurements[2].CPUAllMs *= 2 },
		"ES256 ÷ RS256":                                    func(r *Results) { r.Measurements[1].Ratio = 2.6 },
		"introspection ÷ RS256 tokens":                     func(r *Results) { r.Measurements[3].PerSecond = 5400 },
		"GET /agents/{agentId} ÷ RS256 tokens":             func(r *Results) { r.Measurements[4].CPUAllMs *= 2 },
		"RS256, p99 at 32 connections ÷ (32 ÷ throughput)": func(r *Results) { r.Measurements[0].P99ms = 81 },
		"10000 agents ÷ 1 agent, time per token":           func(r *Results) { r.Measurements[8].Ratio = 0.68 },
		"10000 agents ÷ 1 agent, CPU per token":            func(r *Results) { r.Measurements[8].CPUAllMs = 1.5 },
		"Postgres statements per token, limits off":        func(r *Results) { r.Counts[0].Load.Statements["token_app"] = 1020 },
		"Postgres statements per token, limits on":         func(r *Results) { r.Counts[1].Load.Statements["token_app"] += 20 },
		"Redis round trips per token, limits on":           func(r *Results) { r.Counts[1].Load.RedisReads = 2005 },
		"JetStream messages per token, limits off":         func(r *Results) { r.Counts[0].Load.Published = 1100 },
		"CPU outside of signing, HTTP, Redis and NATS":     func(r *Results) { r.Profile.Share["rest"] = 0.26 },
		"memory of token under load":                       func(r *Results) { r.UnderLoad["token"] = proc.Memory{RSS: 60 << 20, Peak: 151 << 20} },
		"memory of token over 50 s":                        func(r *Results) { r.Soak.RSS["token"][4] = 90 << 20 },
		"good clients during a flood from somewhere":       func(r *Results) { r.Floods[0].Refused = 1 },
		"events token.issued for answers":                  func(r *Results) { r.Audit["token.issued"] = AuditBalance{Answered: 5, Stored: 4} },
	} {
		r := good()
		worsen(r)
		require.Equal(t, []string{name}, missed(r))
	}
}

func TestARatioCountsNoMoreThanTheProcessorTimeSays(t *testing.T) {
	t.Parallel()
	r := &Results{Measurements: []Measurement{measured(token("RS256"), 1000, 0.75, 60)}}
	r.Measurements[0].Ratio, r.Measurements[0].CPUAllMs = 1.6, 1/0.69
	require.Contains(t, missed(r), "RS256, warm tokens ÷ raw RSA-2048 signatures")
}

func TestAMachineThatWasNotQuietIsNamed(t *testing.T) {
	t.Parallel()
	require.Empty(t, good().Measurements[0].Unquiet())
	require.NotContains(t, Markdown(good()), "not quiet")
	for says, disturb := range map[string]func(m *Measurement){
		"more tokens than signatures can be made":       func(m *Measurement) { m.RawOwn.PerSecond = m.PerSecond - 1 },
		"the signing rate changed by 16 % meanwhile":    func(m *Measurement) { m.Drift = 0.16 },
		"the hypervisor kept 6 % of the processor time": func(m *Measurement) { m.Stolen = 0.06 },
	} {
		r := good()
		disturb(&r.Measurements[0])
		require.Equal(t, says, r.Measurements[0].Unquiet())
		require.Equal(t, "machine not quiet: "+says, Targets(r)[0].Doubt)
		require.Equal(t, "machine not quiet: "+says, Targets(r)[1].Doubt, "what stands on it too")
		require.Empty(t, missed(r), "a doubt is no verdict")
		text := Markdown(r)
		require.Contains(t, text, "not quiet in 1 of 11 measurements")
		require.Contains(t, text, "1 agent * |")
	}
	m := good().Measurements[3] // introspection: no signature limits it
	m.RawOwn.PerSecond = 1
	require.Empty(t, m.Unquiet())
}

func TestOnlyTheQuotasWriteBehindIsForgiven(t *testing.T) {
	t.Parallel()
	const name = "Postgres statements per token, limits on"
	for says, worsen := range map[string]func(c *Counts){
		"a statement of the quota for every token": func(c *Counts) {
			c.Load.Statements["token_app"] += 1000
			c.Queries = append(c.Queries, rig.Statement{Calls: 1000, Query: "-- name: quota_take INSERT INTO token.quota_usage"})
		},
		"a write-behind for every token": func(c *Counts) {
			c.Load.Statements["token_app"] += 990
			c.Queries[0].Calls = 1000
		},
		"a count that is read for every token": func(c *Counts) {
			c.Load.Statements["token_app"] += 1000
			c.Queries[1] = rig.Statement{Calls: 1000, Query: "-- name: quota_used SELECT used FROM token.quota_usage"}
		},
	} {
		r := good()
		worsen(&r.Counts[1])
		require.Equal(t, []string{name}, missed(r), says)
	}
}

func TestAFloodIsJudgedByAllGoodClientsAndItsAttacker(t *testing.T) {
	t.Parallel()
	judge := func(change func(*Flood)) Target {
		f := good().Floods[0]
		change(&f)
		return floodTarget(f.Name, []Flood{f})
	}
	require.True(t, judge(func(*Flood) {}).Reached)
	require.Empty(t, judge(func(*Flood) {}).Doubt)
	require.False(t, judge(func(f *Flood) { f.Left = 0.49 }).Reached)
	require.False(t, judge(func(f *Flood) { f.ColdRefused = 1 }).Reached, "one that the service had never seen")
	require.Contains(t, judge(func(f *Flood) { f.AttackBusy = 0.5 }).Doubt, "nothing to do for 50 %")
	r := good()
	r.Floods[0].AttackBusy = 0.5
	require.Contains(t, Markdown(r), "reached in doubt: the attacker had nothing to do")
}

func TestOfAFloodsRoundsTheMedianCountsAndEveryRefusal(t *testing.T) {
	t.Parallel()
	rounds := func(left ...float64) []Flood {
		all := make([]Flood, 0, 2*len(left))
		for _, l := range left {
			all = append(all, Flood{Name: "a", Left: l, AttackBusy: l, ColdAsked: 3}, Flood{Name: "b", Left: 1, AttackBusy: 1})
		}
		return all
	}
	targets := floodTargets(rounds(0.9, 0.3, 0.6))
	require.Len(t, targets, 2)
	require.Equal(t, "good clients during a flood a", targets[0].Name)
	require.Equal(t, "0.60 (0.30 to 0.90), refused 0, of those never seen 0 of 9; the attacker used 0.00 cores", targets[0].Found)
	require.True(t, targets[0].Reached)
	require.Contains(t, targets[0].Doubt, "70 %", "the least busy one")
	require.Empty(t, targets[1].Doubt)
	require.False(t, floodTargets(rounds(0.9, 0.3, 0.4))[0].Reached)
	one := rounds(0.9, 0.3, 0.6)
	one[4].Refused = 1
	require.False(t, floodTargets(one)[0].Reached)
}

func TestWhatNobodyWaitedForMayHaveLeftAnEvent(t *testing.T) {
	t.Parallel()
	for stored, even := range map[int64]bool{4: false, 5: true, 7: true, 8: true, 9: false} {
		require.Equal(t, even, AuditBalance{Answered: 5, Unsure: 3, Stored: stored}.Even(), stored)
	}
	r := &Results{Audit: map[string]AuditBalance{"auth.failed": {Answered: 5, Unsure: 3, Stored: 7}}}
	require.Equal(t, "7 for 5 and 3 that were not waited for", Targets(r)[0].Found)
	require.True(t, Targets(r)[0].Reached)
}

func TestNothingIsSaidOfWhatWasNotMeasured(t *testing.T) {
	t.Parallel()
	require.Empty(t, Targets(&Results{}))
	require.NotContains(t, Markdown(&Results{}), "Targets")
}

func TestAReportShowsEverything(t *testing.T) {
	t.Parallel()
	r := good()
	r.Quick = true
	r.Measurements[0].Ratio = 0.5
	text := Markdown(r)
	for _, part := range []string{
		"A quick run", "**missed**", "POST /token, RS256, 32 connections, 1 agent |", "GET /.well-known/jwks.json, 32 connections |",
		"cold, limits on, 8 connections, 150 agents", "33.0 per second", "| token | 150 | 50 | 80 |", "- token: 50 80 81 80 81",
		"| limits on |", "write-behind, 10 per second", "| signing | 80.0 % |", "pkg/httpx 7.0 %, x 3.0 %.", "401: 7", "5 for 5",
	} {
		require.Contains(t, text, part)
	}
	columns := 0
	for line := range strings.Lines(text) { // every table has as many cells in each row as in its head
		switch {
		case !strings.HasPrefix(line, "|"):
			columns = 0
		case columns == 0:
			columns = strings.Count(line, "|")
		default:
			require.Equal(t, columns, strings.Count(line, "|"), line)
		}
	}
	_, err := json.Marshal(r)
	require.NoError(t, err)
	require.Contains(t, Line(r.Measurements[0]), "ratio 0.500")
}

func TestMemoryIsFlatOrGrows(t *testing.T) {
	t.Parallel()
	s := NewSoak(10 * time.Second)
	for i := range 10 {
		s.Add(map[string]proc.Memory{"flat": {RSS: 100}, "leak": {RSS: int64(100 + 10*i)}})
	}
	growth, ok := s.Growth("flat")
	require.True(t, ok)
	require.Zero(t, growth)
	growth, ok = s.Growth("leak")
	require.True(t, ok)
	require.InDelta(t, 185.0/125-1, growth, 1e-9)
	_, ok = s.Growth("nobody")
	require.False(t, ok)
	require.Equal(t, "a 1 MiB, b 2 MiB", MemoryLine(map[string]proc.Memory{"b": {RSS: 2 << 20}, "a": {RSS: 1 << 20}}))
}

func TestTheMostMemoryIsKept(t *testing.T) {
	t.Parallel()
	merged := MergeMemory(nil, map[string]proc.Memory{"a": {RSS: 5, Peak: 9}})
	merged = MergeMemory(merged, map[string]proc.Memory{"a": {RSS: 7, Peak: 8}, "b": {RSS: 1, Peak: 1}})
	require.Equal(t, map[string]proc.Memory{"a": {RSS: 7, Peak: 9}, "b": {RSS: 1, Peak: 1}}, merged)
}
