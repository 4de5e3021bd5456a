package keys

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics tells Prometheus how old the active key is, when the next one signs, and
// how many keys there are, as the ring last read them.
type Metrics struct {
	ring                *Ring
	count, age, nextOne *prometheus.Desc
}

var _ prometheus.Collector = (*Metrics)(nil)

// NewMetrics makes the metrics of a ring.
func NewMetrics(ring *Ring) *Metrics {
	return &Metrics{
		ring: ring,
		count: prometheus.NewDesc("agentidp_signing_keys",
			"Signing keys by state: next (published, does not sign yet), active, retired (published for its last tokens).",
			[]string{"state"}, nil),
		age: prometheus.NewDesc("agentidp_signing_key_age_seconds",
			"Time since the active signing key began to sign.", nil, nil),
		nextOne: prometheus.NewDesc("agentidp_signing_key_rotation_seconds",
			"Time until the next key signs: negative when it should already; absent when no rotation is due.", nil, nil),
	}
}

// Describe is of prometheus.Collector.
func (m *Metrics) Describe(out chan<- *prometheus.Desc) {
	out <- m.count
	out <- m.age
	out <- m.nextOne
}

// Collect is of prometheus.Collector.
func (m *Metrics) Collect(out chan<- prometheus.Metric) {
	current := m.ring.view.Load()
	if current == nil {
		return
	}
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	count := map[State]int{Next: 0, Active: 0, Retired: 0}
	var active, next *Record
	for _, item := range current.keys {
		count[item.record.State]++
		switch item.record.State {
		case Active:
			active = &item.record
		case Next:
			next = &item.record
		case Retired, Gone:
		}
	}
	for state, number := range count {
		gauge(m.count, float64(number), string(state))
	}
	now := m.ring.clock()
	gauge(m.age, now.Sub(*active.ActivatedAt).Seconds())
	if at, ok := m.ring.policy.nextRotation(*active, next); ok {
		gauge(m.nextOne, at.Sub(now).Seconds())
	}
}

// nextRotation is when the next key signs, as far as that is known.
func (p policy) nextRotation(active Record, next *Record) (time.Time, bool) {
	switch {
	case next != nil:
		return p.signsFrom(*next), true
	case p.rotation > 0:
		return p.signsUntil(active), true
	default:
		return time.Time{}, false
	}
}
