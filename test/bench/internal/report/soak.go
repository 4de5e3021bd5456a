package report

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sentryagent/agentidp/test/internal/proc"
)

// Soak is memory over time, under load.
type Soak struct {
	Seconds float64            `json:"everySeconds"`
	Tokens  int64              `json:"tokens"`
	RSS     map[string][]int64 `json:"rssBytes"` // by process, one sample after the other
}

// NewSoak makes an empty one.
func NewSoak(every time.Duration) *Soak {
	return &Soak{Seconds: every.Seconds(), RSS: map[string][]int64{}}
}

// Add appends one sample of each process.
func (s *Soak) Add(memory map[string]proc.Memory) {
	for name, m := range memory {
		s.RSS[name] = append(s.RSS[name], m.RSS)
	}
}

// Growth is by which share the memory of a process grew from the second fifth of the samples to the last: the first is
// when caches fill and the heap finds its size. ok is false with too few samples to tell.
func (s *Soak) Growth(name string) (share float64, ok bool) {
	samples := s.RSS[name]
	fifth := len(samples) / 5
	if fifth == 0 {
		return 0, false
	}
	early, late := average(samples[fifth:2*fifth]), average(samples[len(samples)-fifth:])
	return late/early - 1, true
}

func average(values []int64) float64 {
	sum := 0.0
	for _, v := range values {
		sum += float64(v)
	}
	return sum / float64(len(values))
}

// MemoryLine is the memory of all processes in one line.
func MemoryLine(memory map[string]proc.Memory) string {
	parts := make([]string, 0, len(memory))
	for _, name := range slices.Sorted(maps.Keys(memory)) {
		parts = append(parts, fmt.Sprintf("%s %.0f MiB", name, mib(memory[name].RSS)))
	}
	return strings.Join(parts, ", ")
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }
