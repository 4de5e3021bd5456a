package registry

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sentryagent/agentidp/pkg/idle"
)

const (
	countAgentsEvery = 10 * time.Second
	countAgentsFor   = 5 * time.Second
)

// fleet shows how much room there is for agents.
type fleet struct {
	agents prometheus.Gauge
	count  func(ctx context.Context) (int64, error)
}

// newFleet registers agentidp_agents and agentidp_agents_limit. count is that of the former.
func newFleet(metrics prometheus.Registerer, limit int64, count func(ctx context.Context) (int64, error)) *fleet {
	agents := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "agentidp_agents", Help: "Registered agents that are not decommissioned.",
	})
	most := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "agentidp_agents_limit", Help: "Most agents that may be registered and not decommissioned, 0 for no limit.",
	})
	most.Set(float64(limit))
	metrics.MustRegister(agents, most)
	return &fleet{agents: agents, count: count}
}

// Run counts until ctx ends and returns nil. While the database is away the metric keeps its last value.
func (f *fleet) Run(ctx context.Context) error {
	idle.Every(ctx, countAgentsEvery, f.look)
	return nil
}

func (f *fleet) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, countAgentsFor)
	defer cancel()
	if living, err := f.count(ctx); err == nil {
		f.agents.Set(float64(living))
	}
}
