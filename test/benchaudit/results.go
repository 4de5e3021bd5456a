package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Targets.
const (
	aimListMs  = 30
	aimProofMs = 10
	aimIngest  = 5000
	aimLagMs   = 1000
	aimMemory  = 150 << 20
)

// results are those of one run.
type results struct {
	Started         time.Time          `json:"started"`
	Took            string             `json:"took"`
	Seed            uint64             `json:"seed"`
	Leaves          int64              `json:"leaves"` // at the end
	PostgresBuffers int64              `json:"postgresBuffersBytes"`
	CopyPerSecond   float64            `json:"copyPerSecond"`
	FillPerSecond   float64            `json:"fillPerSecond"`
	Lists           []list             `json:"lists"`
	Get             *latency           `json:"get"`
	Proof           *latency           `json:"proof"`
	ProofCrowd      *latency           `json:"proofCrowd"`
	Exports         []exported         `json:"exports"`
	IngestPerSecond float64            `json:"ingestPerSecond"`
	IngestCPUms     map[string]float64 `json:"ingestCpuMsPerEvent"`
	LagRate         float64            `json:"lagRate"`
	LagP50ms        float64            `json:"lagP50Ms"`
	LagP99ms        float64            `json:"lagP99Ms"`
	Targets         []target           `json:"targets"`
}

// latency is what a load was answered with.
type latency struct {
	Answered  int     `json:"answered"`
	PerSecond float64 `json:"perSecond"`
	P50ms     float64 `json:"p50Ms"`
	P99ms     float64 `json:"p99Ms"`
	MaxMs     float64 `json:"maxMs"`
}

// list is a measurement of GET /audit by which of agent, action and day it asked for.
type list struct {
	latency

	Agent  bool `json:"agent"`
	Action bool `json:"action"`
	Day    bool `json:"day"`
	Deep   bool `json:"deep"`
	Once   bool `json:"once"` // no list is asked for twice
}

func (l list) name() string {
	var parts []string
	for name, is := range map[string]bool{"one agent": l.Agent, "one action": l.Action, "one day": l.Day} {
		if is {
			parts = append(parts, name)
		}
	}
	slices.Sort(parts)
	if len(parts) == 0 {
		parts = []string{"all"}
	}
	if l.Deep {
		return strings.Join(parts, ", ") + ", deep cursor"
	}
	if l.Once {
		return strings.Join(parts, ", ") + ", first page, each once"
	}
	return strings.Join(parts, ", ") + ", first page"
}

// exported is what an export took.
type exported struct {
	Name         string  `json:"name"`
	Lines        int64   `json:"lines"`
	Bytes        int64   `json:"bytes"`
	Seconds      float64 `json:"seconds"`
	Whole        bool    `json:"whole"`
	MemoryBefore int64   `json:"memoryBefore"`
	MemoryPeak   int64   `json:"memoryPeak"` // of the process since it started
}

// target is something that is aimed at, and what was found.
type target struct {
	Name    string `json:"name"`
	Aim     string `json:"aim"`
	Found   string `json:"found"`
	Reached bool   `json:"reached"`
}

// judge holds what was measured against the targets.
func (r *results) judge() {
	r.Targets = nil
	add := func(name, aim, found string, reached bool) {
		r.Targets = append(r.Targets, target{name, aim, found, reached})
	}
	if len(r.Lists) > 0 {
		slowest := slices.MaxFunc(r.Lists, func(a, b list) int { return int(1000 * (a.P99ms - b.P99ms)) })
		add("lists, p99 of the slowest kind", fmt.Sprintf("≤ %d ms", aimListMs), fmt.Sprintf("%.1f ms (%s)", slowest.P99ms, slowest.name()), slowest.P99ms <= aimListMs)
	}
	if r.Proof != nil {
		add("proofs, p99, one connection", fmt.Sprintf("≤ %d ms", aimProofMs), fmt.Sprintf("%.1f ms", r.Proof.P99ms), r.Proof.P99ms <= aimProofMs)
	}
	add("events stored per second", fmt.Sprintf("≥ %d", aimIngest), fmt.Sprintf("%.0f", r.IngestPerSecond), r.IngestPerSecond >= aimIngest)
	add(fmt.Sprintf("lag at %.0f events per second, p99", r.LagRate), fmt.Sprintf("≤ %d ms", aimLagMs), fmt.Sprintf("%.0f ms", r.LagP99ms), r.LagP99ms <= aimLagMs)
	for _, x := range r.Exports {
		read := "whole"
		if !x.Whole {
			read = fmt.Sprintf("for %.0f s", x.Seconds)
		}
		add(fmt.Sprintf("peak memory of audit, export of %s, read %s", x.Name, read), "≤ 150 MiB", fmt.Sprintf("%d MiB", x.MemoryPeak>>20), x.MemoryPeak <= aimMemory)
	}
}

// markdown is the report.
func (r *results) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, took %s, seed %d, %d leaves at the end; Postgres with shared_buffers of %.1f GiB.\n\n**Targets**\n\n| what | aim | found |  |\n|---|---:|---:|---:|\n",
		r.Started.Format("2006-01-02 15:04 MST"), r.Took, r.Seed, r.Leaves, float64(r.PostgresBuffers)/(1<<30))
	for _, t := range r.Targets {
		verdict := "**missed**"
		if t.Reached {
			verdict = "reached"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", t.Name, t.Aim, t.Found, verdict)
	}
	fmt.Fprintf(&b, "\n**Reading**, %d connections\n\n| what | per s | p50 ms | p99 ms | slowest ms |\n|---|---:|---:|---:|---:|\n", connections)
	row := func(name string, l latency) {
		fmt.Fprintf(&b, "| %s | %.0f | %.1f | %.1f | %.1f |\n", name, l.PerSecond, l.P50ms, l.P99ms, l.MaxMs)
	}
	for _, l := range r.Lists {
		row("list: "+l.name(), l.latency)
	}
	if r.Get != nil {
		row("one event", *r.Get)
	}
	if r.ProofCrowd != nil {
		row("proof", *r.ProofCrowd)
	}
	if r.Proof != nil {
		row("proof, one connection", *r.Proof)
	}
	b.WriteString("\n**Exports**, one at a time\n\n| what | lines | whole | s | lines per s | MiB per s | audit's memory before, MiB | its peak so far |\n|---|---:|---:|---:|---:|---:|---:|---:|\n")
	for _, x := range r.Exports {
		whole := "no"
		if x.Whole {
			whole = "yes"
		}
		fmt.Fprintf(&b, "| %s | %d | %s | %.1f | %.0f | %.1f | %d | %d |\n", x.Name, x.Lines, whole, x.Seconds,
			float64(x.Lines)/x.Seconds, float64(x.Bytes)/x.Seconds/(1<<20), x.MemoryBefore>>20, x.MemoryPeak>>20)
	}
	fmt.Fprintf(&b, "\n**Writing**\n\n| what | per s |\n|---|---:|\n| rows by COPY into a table without an index | %.0f |\n"+
		"| events by COPY into the trail, with indexes, leaves and tiles, without WAL | %.0f |\n"+
		"| events through JetStream and the sequencer | %.0f |\n", r.CopyPerSecond, r.FillPerSecond, r.IngestPerSecond)
	b.WriteString("\nCPU ms per event through JetStream:")
	for _, name := range slices.Sorted(maps.Keys(r.IngestCPUms)) {
		fmt.Fprintf(&b, " %s %.3f", name, r.IngestCPUms[name])
	}
	fmt.Fprintf(&b, ".\n\nLag at %.0f events per second, from publishing to a signed head that covers the event: p50 %.0f ms, p99 %.0f ms.\n",
		r.LagRate, r.LagP50ms, r.LagP99ms)
	return b.String()
}
