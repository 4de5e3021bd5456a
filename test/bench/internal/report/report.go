// Package report holds what a run of the benchmark found and writes it: as JSON for programs, as a table for people. It
// knows which figures are aimed at; it measures nothing.
package report

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sentryagent/agentidp/test/bench/internal/rawsign"
	"github.com/sentryagent/agentidp/test/internal/load"
	"github.com/sentryagent/agentidp/test/internal/proc"
	"github.com/sentryagent/agentidp/test/internal/rig"
)

// What a measurement asks the services for.
const (
	KindToken      = "token"
	KindCold       = "cold"  // the first token of an agent
	KindCrowd      = "crowd" // as KindToken, for so long that every agent is looked up again
	KindIntrospect = "introspect"
	KindRead       = "read"
	KindJWKS       = "jwks"
)

// Case is one thing that is measured.
type Case struct {
	Kind        string `json:"kind"`
	Algorithm   string `json:"algorithm"`
	Connections int    `json:"connections"`
	Agents      int    `json:"agents"`
	Limits      bool   `json:"limits"` // rate limit and quota counted, though never reached
	// InTurnWith is the Kind that these tokens are compared with, round by round; "" for a measurement of its own.
	InTurnWith string `json:"inTurnWith,omitempty"`
}

// Measurement is what one round found, or the median of several.
type Measurement struct {
	Case

	Rounds    int     `json:"rounds"`
	Seconds   float64 `json:"seconds"` // of one round
	Answered  int     `json:"answered"`
	PerSecond float64 `json:"perSecond"`
	P50ms     float64 `json:"p50ms"`
	P95ms     float64 `json:"p95ms"`
	P99ms     float64 `json:"p99ms"`

	// RawRSA is this machine's RSA-2048 signing rate right before and right after, the mean of both; RawOwn is that of
	// the algorithm that signs the tokens.
	RawRSA rawsign.Rate `json:"rawRsa"`
	RawOwn rawsign.Rate `json:"rawOwn"`
	// Ratio is PerSecond ÷ RawRSA.PerSecond.
	Ratio float64 `json:"ratio"`
	// Drift is by which share RawRSA's faster rate was above the slower one.
	Drift float64 `json:"rawDrift"`
	// Stolen is the share of the machine's processor time that its hypervisor gave to others.
	Stolen float64 `json:"stolen"`

	// CPUms is the processor time of one request in milliseconds, by process; "bench" is the load generator.
	CPUms    map[string]float64 `json:"cpuMs"`
	CPUAllMs float64            `json:"cpuAllMs"`

	// StoredPerSecond is how fast the audit service stored events meanwhile, and Behind how many more messages waited at
	// the end than at the beginning: a figure that the audit trail does not keep up with is none.
	StoredPerSecond float64 `json:"storedPerSecond"`
	Behind          int64   `json:"behind"`
	SettleMs        float64 `json:"settleMs"` // until everything was stored, after the load had ended
}

// SignatureShare is what one raw RSA signature takes of all the processor time of a request: what Ratio would be if the
// cores never idled. It hardly changes when other programs want the same cores, and Ratio does.
func (m Measurement) SignatureShare() float64 {
	if m.CPUAllMs == 0 {
		return 0
	}
	return m.RawRSA.CPUms / m.CPUAllMs
}

// Unquiet says by what one sees that other programs wanted the cores, "" if by nothing. Of several rounds it is told by
// their medians.
func (m Measurement) Unquiet() string {
	signs := m.Kind == KindToken || m.Kind == KindCrowd || m.Kind == KindCold
	switch {
	case signs && m.PerSecond > m.RawOwn.PerSecond:
		return "more tokens than signatures can be made"
	case m.Drift > quiet:
		return fmt.Sprintf("the signing rate changed by %.0f %% meanwhile", 100*m.Drift)
	case m.Stolen > quietStolen:
		return fmt.Sprintf("the hypervisor kept %.0f %% of the processor time", 100*m.Stolen)
	}
	return ""
}

const (
	// quiet is by how much the machine's signing rate may change during a measurement.
	quiet = 0.15
	// quietStolen is how much of its processor time a quiet machine may miss.
	quietStolen = 0.05
)

// Medians joins the rounds of each case into one measurement, in the order in which the cases came first.
func Medians(rounds []Measurement) []Measurement {
	var order []Case
	byCase := map[Case][]Measurement{}
	for _, m := range rounds {
		if _, known := byCase[m.Case]; !known {
			order = append(order, m.Case)
		}
		byCase[m.Case] = append(byCase[m.Case], m)
	}
	joined := make([]Measurement, 0, len(order))
	for _, c := range order {
		joined = append(joined, median(byCase[c]))
	}
	return joined
}

func median(rounds []Measurement) Measurement {
	of := func(read func(Measurement) float64) float64 {
		values := make([]float64, len(rounds))
		for i, m := range rounds {
			values[i] = read(m)
		}
		return load.Median(values)
	}
	joined := rounds[0]
	joined.Rounds = len(rounds)
	joined.Answered = 0
	for _, m := range rounds {
		joined.Answered += m.Answered
		joined.Behind = max(joined.Behind, m.Behind)
	}
	joined.PerSecond = of(func(m Measurement) float64 { return m.PerSecond })
	joined.P50ms = of(func(m Measurement) float64 { return m.P50ms })
	joined.P95ms = of(func(m Measurement) float64 { return m.P95ms })
	joined.P99ms = of(func(m Measurement) float64 { return m.P99ms })
	joined.RawRSA.PerSecond = of(func(m Measurement) float64 { return m.RawRSA.PerSecond })
	joined.RawRSA.CPUms = of(func(m Measurement) float64 { return m.RawRSA.CPUms })
	joined.RawOwn.PerSecond = of(func(m Measurement) float64 { return m.RawOwn.PerSecond })
	joined.RawOwn.CPUms = of(func(m Measurement) float64 { return m.RawOwn.CPUms })
	joined.Drift = of(func(m Measurement) float64 { return m.Drift })
	joined.Stolen = of(func(m Measurement) float64 { return m.Stolen })
	joined.Ratio = of(func(m Measurement) float64 { return m.Ratio })
	joined.CPUAllMs = of(func(m Measurement) float64 { return m.CPUAllMs })
	joined.StoredPerSecond = of(func(m Measurement) float64 { return m.StoredPerSecond })
	joined.SettleMs = of(func(m Measurement) float64 { return m.SettleMs })
	joined.CPUms = map[string]float64{}
	for name := range rounds[0].CPUms {
		joined.CPUms[name] = of(func(m Measurement) float64 { return m.CPUms[name] })
	}
	return joined
}

// Counts are what warm tokens cost the servers: what was counted while there were some, and in as long a time without.
type Counts struct {
	Limits bool        `json:"limits"`
	Tokens int64       `json:"tokens"`
	Load   ServerCalls `json:"load"`
	Idle   ServerCalls `json:"idle"`
	// Queries are the most frequent statements while there were tokens, of all roles but the audit service's.
	Queries []rig.Statement `json:"queries"`
}

// ServerCalls are what Postgres, Redis and NATS have counted.
type ServerCalls struct {
	Seconds    float64            `json:"seconds"`
	Statements map[string]float64 `json:"statements"` // by role; those of audit_app store the events
	RedisReads float64            `json:"redisReads"` // how often Redis read from a connection
	Commands   map[string]float64 `json:"redisCommands"`
	Published  float64            `json:"published"` // messages in the stream AUDIT
}

// writeBehindPerSecond is how often the quota's books are written at the most, however many tokens there are.
const writeBehindPerSecond = 10

// writeBehind is how many statements wrote the quota's books, as far as the time allows them: more of them are a price
// of tokens, and so is everything else that the quota asks Postgres for.
func (c Counts) writeBehind() float64 {
	sum := 0.0
	for _, q := range c.Queries {
		if strings.HasPrefix(q.Query, "-- name: quota_raise ") {
			sum += float64(q.Calls)
		}
	}
	return min(sum, writeBehindPerSecond*c.Load.Seconds+1)
}

// PerToken is what one token costs: what was counted with tokens less what is counted in as long a time without.
func (c Counts) PerToken(read func(ServerCalls) float64) float64 {
	if c.Tokens == 0 || c.Idle.Seconds == 0 {
		return 0
	}
	return max(0, read(c.Load)-read(c.Idle)*c.Load.Seconds/c.Idle.Seconds) / float64(c.Tokens)
}

// Profile is where the token service spends its processor time.
type Profile struct {
	Case

	Share map[string]float64 `json:"share"` // by part, of 1
	Rest  map[string]float64 `json:"rest"`  // what the rest consists of, of 1
	// File is the profile itself.
	File string `json:"file"`
}

// Flood is what good clients notice of one that guesses, in one round.
type Flood struct {
	Name           string  `json:"name"`
	QuietPerSecond float64 `json:"quietPerSecond"`
	FloodPerSecond float64 `json:"floodPerSecond"`
	Left           float64 `json:"left"` // FloodPerSecond ÷ QuietPerSecond
	QuietP99ms     float64 `json:"quietP99ms"`
	FloodP99ms     float64 `json:"floodP99ms"`
	Refused        int64   `json:"refused"` // of the requests of good clients that the service knows

	// ColdAsked are the requests of good clients whose secrets the service had never seen, without and with the flood;
	// ColdRefused are those of them that got no token, and the rest is how long the slowest one took.
	ColdAsked   int64   `json:"coldAsked"`
	ColdRefused int64   `json:"coldRefused"`
	ColdQuietMs float64 `json:"coldQuietMs"`
	ColdFloodMs float64 `json:"coldFloodMs"`

	Peak int64 `json:"peakBytes"` // of the token service's resident memory, from its start

	AttackPerSecond float64          `json:"attackPerSecond"`
	AttackCPU       float64          `json:"attackCpu"`  // cores that the attacker used
	AttackBusy      float64          `json:"attackBusy"` // share of the time in which it ran or waited for a core
	Answers         map[string]int64 `json:"answers"`    // to the attacker, by status
	Unanswered      int64            `json:"unanswered"` // that it hung up on
	NoDial          int64            `json:"noDial"`     // connections that it did not get
}

// busy is the least share of the time that an attacker must have used, or wanted to use, for a verdict.
const busy = 0.8

// floodTargets holds each kind of flood against what is aimed at: of what is left the median of its rounds, of refusals all.
// An attacker that idled in one of them was none.
func floodTargets(floods []Flood) []Target {
	var names []string
	rounds := map[string][]Flood{}
	for _, f := range floods {
		if rounds[f.Name] == nil {
			names = append(names, f.Name)
		}
		rounds[f.Name] = append(rounds[f.Name], f)
	}
	targets := make([]Target, len(names))
	for i, name := range names {
		targets[i] = floodTarget(name, rounds[name])
	}
	return targets
}

func floodTarget(name string, rounds []Flood) Target {
	left, cores, wanted := make([]float64, len(rounds)), make([]float64, len(rounds)), make([]float64, len(rounds))
	var refused, coldRefused, coldAsked int64
	for i, f := range rounds {
		left[i], cores[i], wanted[i] = f.Left, f.AttackCPU, f.AttackBusy
		refused, coldRefused, coldAsked = refused+f.Refused, coldRefused+f.ColdRefused, coldAsked+f.ColdAsked
	}
	t := Target{
		Name: "good clients during a flood " + name, Aim: "≥ 0.5 of quiet, none refused",
		Found: fmt.Sprintf("%.2f (%.2f to %.2f), refused %d, of those never seen %d of %d; the attacker used %.2f cores",
			load.Median(left), slices.Min(left), slices.Max(left), refused, coldRefused, coldAsked, load.Median(cores)),
		Reached: load.Median(left) >= aimLeft && refused == 0 && coldRefused == 0,
	}
	if share := slices.Min(wanted); share < busy {
		t.Doubt = fmt.Sprintf("the attacker had nothing to do for %.0f %% of the time", 100*(1-share))
	}
	return t
}

// Machine is where the benchmark ran.
type Machine struct {
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Memory int64  `json:"memoryBytes"`
	Kernel string `json:"kernel"`
	Go     string `json:"go"`
	Commit string `json:"commit"`
	Load   string `json:"loadAverage"` // of the last minute, before anything was started
}

// Results are everything one run found.
type Results struct {
	Started      time.Time               `json:"started"`
	Took         string                  `json:"took"`
	Quick        bool                    `json:"quick"`
	Machine      Machine                 `json:"machine"`
	Targets      []Target                `json:"targets"`
	Startup      map[string]float64      `json:"startupMs,omitempty"` // process start until ready
	Idle         map[string]proc.Memory  `json:"idleMemory,omitempty"`
	UnderLoad    map[string]proc.Memory  `json:"loadMemory,omitempty"`
	Measurements []Measurement           `json:"measurements"`
	RawBcrypt    float64                 `json:"rawBcryptPerSecond,omitempty"` // comparisons of hashes of the service's work factor, on all cores
	Counts       []Counts                `json:"counts,omitempty"`
	Profile      *Profile                `json:"profile,omitempty"`
	Floods       []Flood                 `json:"floods,omitempty"`
	Soak         *Soak                   `json:"soak,omitempty"`
	Audit        map[string]AuditBalance `json:"audit,omitempty"`
}

// AuditBalance compares what was answered with what was recorded.
type AuditBalance struct {
	Answered int64 `json:"answered"`
	// Unsure are requests whose sender hung up: they may have left an event or not.
	Unsure int64 `json:"unsure,omitempty"`
	Stored int64 `json:"stored"`
}

// Even tells that no event is missing and none is too many.
func (a AuditBalance) Even() bool { return a.Stored >= a.Answered && a.Stored <= a.Answered+a.Unsure }

// Find is the measurement of a case.
func (r *Results) Find(c Case) (Measurement, bool) {
	i := slices.IndexFunc(r.Measurements, func(m Measurement) bool { return m.Case == c })
	if i < 0 {
		return Measurement{}, false
	}
	return r.Measurements[i], true
}

// MergeMemory keeps the larger of two findings for each process.
func MergeMemory(into map[string]proc.Memory, found map[string]proc.Memory) map[string]proc.Memory {
	if into == nil {
		into = map[string]proc.Memory{}
	}
	for name, m := range found {
		into[name] = proc.Memory{RSS: max(m.RSS, into[name].RSS), Peak: max(m.Peak, into[name].Peak)}
	}
	return into
}
