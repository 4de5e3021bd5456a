package replica

import (
	"context"
	"time"

	"github.com/sentryagent/agentidp/pkg/telemetry"
)

const (
	// watchEvery is the pause between two looks at what a replica depends on, and lookFor how long one of them may take:
	// less than between two scrapes.
	watchEvery = 5 * time.Second
	lookFor    = 2 * time.Second
)

// watch keeps agentidp_ready and agentidp_dependency_up, so that an operator sees what is away from every replica's own
// view, whoever asks for /readyz.
type watch struct {
	telemetry    *telemetry.Telemetry
	ready        func(context.Context) error
	dependencies map[string]func(context.Context) error
}

// Watch has agentidp_dependency_up tell about a server that this service alone works with. It is called before Run.
func (r *Replica) Watch(name string, answers func(context.Context) error) {
	r.dependencies[name] = answers
}

func (w watch) look(ctx context.Context) {
	for name, answers := range w.dependencies {
		w.telemetry.Metrics.DependencyUp.WithLabelValues(name).Set(up(ctx, answers))
	}
	w.telemetry.Metrics.Ready.Set(up(ctx, w.ready))
}

func up(ctx context.Context, answers func(context.Context) error) float64 {
	ctx, cancel := context.WithTimeout(ctx, lookFor)
	defer cancel()
	if answers(ctx) != nil {
		return 0
	}
	return 1
}
