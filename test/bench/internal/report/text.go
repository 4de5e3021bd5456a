package report

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Line is a measurement in one line.
func Line(m Measurement) string {
	var cpu strings.Builder
	for _, name := range slices.Sorted(maps.Keys(m.CPUms)) {
		fmt.Fprintf(&cpu, " %s %.3f", name, m.CPUms[name])
	}
	return fmt.Sprintf("%s %s %3d conns %5d agents: %8.0f/s  ratio %.3f  p50 %.2f p95 %.2f p99 %.2f ms  behind %d  settle %.0f ms\n"+
		"   raw RSA %.0f/s %.3f ms | CPU ms per request %.3f:%s",
		m.Kind, m.Algorithm, m.Connections, m.Agents, m.PerSecond, m.Ratio, m.P50ms, m.P95ms, m.P99ms, m.Behind, m.SettleMs,
		m.RawRSA.PerSecond, m.RawRSA.CPUms, m.CPUAllMs, cpu.String())
}

// Text is the whole run for people.
func Text(r *Results) string {
	var b strings.Builder
	for _, m := range r.Measurements {
		fmt.Fprintln(&b, Line(m))
	}
	return b.String()
}
