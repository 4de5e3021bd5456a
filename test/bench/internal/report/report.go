// Package report holds what a run of the benchmark found and writes it: as JSON for programs, as a table for people. It
// knows which figures are aimed at; it measures nothing.
package report

import (
	"slices"
	"time"

	"github.com/sentryagent/agentidp/test/bench/internal/load"
	"github.com/sentryagent/agentidp/test/bench/internal/proc"
	"github.com/sentryagent/agentidp/test/bench/internal/rawsign"
	"github.com/sentryagent/agentidp/test/bench/internal/rig"
)

// What a measurement asks the services for.
const (
	KindToken      = "token"
	KindCold       = "cold"
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

	// CPUms is the processor time of one request in milliseconds, by process; "bench" is the load generator.
	CPUms    map[string]float64 `json:"cpuMs"`
	CPUAllMs float64            `json:"cpuAllMs"`

	// StoredPerSecond is how fast the audit service stored events meanwhile, and Behind how many more waited at the end
	// than at the beginning: a figure that the audit trail does not keep up with is none.
	StoredPerSecond float64 `json:"storedPerSecond"`
	Behind          int64   `json:"behind"`
	SettleMs        float64 `json:"settleMs"` // until everything was stored, after the load had ended
}

// Key tells cases apart.
func (m Measurement) Key() Case { return m.Case }

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

// Counts are what one warm token costs the servers.
type Counts struct {
	Limits bool  `json:"limits"`
	Tokens int64 `json:"tokens"`
	// Statements by Postgres role and Idle, how many there were in as long a time without any token; the audit service's
	// are those that store the events.
	Statements map[string]int64 `json:"statements"`
	Idle       map[string]int64 `json:"idleStatements"`
	// RedisReads are the round trips of all clients to Redis, IdleReads those without any token.
	RedisReads int64            `json:"redisReads"`
	IdleReads  int64            `json:"idleRedisReads"`
	Redis      map[string]int64 `json:"redisCommands"`
	// Publishes are the messages that were added to the stream AUDIT.
	Publishes int64           `json:"publishes"`
	Queries   []rig.Statement `json:"queries"`
}

// Profile is where the token service spends its processor time.
type Profile struct {
	Case

	Share map[string]float64 `json:"share"` // by part, of 1
	Rest  map[string]float64 `json:"rest"`  // what the rest consists of, of 1
	// File is the profile itself.
	File string `json:"file"`
}

// Flood is what good clients notice of one that guesses.
type Flood struct {
	Name            string         `json:"name"`
	QuietPerSecond  float64        `json:"quietPerSecond"`
	FloodPerSecond  float64        `json:"floodPerSecond"`
	Left            float64        `json:"left"` // FloodPerSecond ÷ QuietPerSecond
	QuietP99ms      float64        `json:"quietP99ms"`
	FloodP99ms      float64        `json:"floodP99ms"`
	AttackPerSecond float64        `json:"attackPerSecond"`
	AttackCPU       float64        `json:"attackCpu"` // cores that the attacker used
	Answers         map[string]int `json:"answers"`   // to the attacker, by status
}

// Soak is memory over time.
type Soak struct {
	Every   time.Duration            `json:"everyNs"`
	Tokens  int64                    `json:"tokens"`
	Samples map[string][]proc.Memory `json:"samples"` // by process
}

// Machine is where the benchmark ran.
type Machine struct {
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Memory int64  `json:"memoryBytes"`
	Kernel string `json:"kernel"`
	Go     string `json:"go"`
	Commit string `json:"commit"`
}

// Results are everything one run found.
type Results struct {
	Started      time.Time               `json:"started"`
	Took         string                  `json:"took"`
	Quick        bool                    `json:"quick"`
	Machine      Machine                 `json:"machine"`
	Startup      map[string]float64      `json:"startupMs,omitempty"` // process start until ready
	Idle         map[string]proc.Memory  `json:"idleMemory,omitempty"`
	UnderLoad    map[string]proc.Memory  `json:"loadMemory,omitempty"`
	Measurements []Measurement           `json:"measurements"`
	RawBcrypt    map[string]float64      `json:"rawBcrypt,omitempty"`
	Counts       []Counts                `json:"counts,omitempty"`
	Profile      *Profile                `json:"profile,omitempty"`
	Floods       []Flood                 `json:"floods,omitempty"`
	Soak         *Soak                   `json:"soak,omitempty"`
	Audit        map[string]AuditBalance `json:"audit,omitempty"`
}

// AuditBalance compares what was answered with what was recorded.
type AuditBalance struct {
	Answered int64 `json:"answered"`
	Stored   int64 `json:"stored"`
}

// Find is the measurement of a case.
func (r *Results) Find(c Case) (Measurement, bool) {
	i := slices.IndexFunc(r.Measurements, func(m Measurement) bool { return m.Case == c })
	if i < 0 {
		return Measurement{}, false
	}
	return r.Measurements[i], true
}
