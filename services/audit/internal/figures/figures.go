// Package figures shows Prometheus how the trail stands as a whole: how long the log is and when it last grew, what waits in
// the dead letters, and which days retention has left. It looks from time to time, in every replica, and judges nothing.
package figures

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sentryagent/agentidp/pkg/idle"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

const (
	lookEvery = 10 * time.Second
	lookFor   = 5 * time.Second
)

// Figures are what there is at one moment.
type Figures struct {
	Leaves      int64     // of the log
	GrewAt      time.Time // when the newest head was signed; zero before the first leaf
	DeadLetters int64
	ExpiredDays int64 // stored, and before the retention window
}

// Store counts.
type Store interface {
	// Figures counts days before oldest as expired.
	Figures(ctx context.Context, oldest time.Time) (Figures, error)
}

// Config is what a Watch works with; every field is required.
type Config struct {
	Store     Store
	Window    trail.Window
	Telemetry *telemetry.Telemetry
	Clock     func() time.Time
}

// Watch keeps the metrics of one replica.
type Watch struct {
	Config

	leaves, grewAt, deadLetters, expiredDays prometheus.Gauge
}

// New registers agentidp_audit_log_leaves, agentidp_audit_checkpoint_timestamp_seconds, agentidp_audit_dead_letters and
// agentidp_audit_expired_days.
func New(cfg Config) (*Watch, error) {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	}
	w := &Watch{
		Config: cfg,
		leaves: gauge("agentidp_audit_log_leaves", "Events in the audit log, those that retention has removed included."),
		grewAt: gauge("agentidp_audit_checkpoint_timestamp_seconds",
			"Unix time at which the newest head of the audit log was signed, 0 before the first."),
		deadLetters: gauge("agentidp_audit_dead_letters", "What could not be stored as an event and is kept for an operator."),
		expiredDays: gauge("agentidp_audit_expired_days", "Days before the retention window that are still stored."),
	}
	for _, metric := range []prometheus.Collector{w.leaves, w.grewAt, w.deadLetters, w.expiredDays} {
		if err := cfg.Telemetry.Metrics.Registry.Register(metric); err != nil {
			return nil, fmt.Errorf("register the figures of the trail: %w", err)
		}
	}
	return w, nil
}

// Run looks until ctx ends and returns nil. While the database is away the metrics keep their last values.
func (w *Watch) Run(ctx context.Context) error {
	idle.Every(ctx, lookEvery, func(ctx context.Context) {
		if err := w.Look(ctx); err != nil && ctx.Err() == nil {
			w.Telemetry.Log.DebugContext(ctx, "the trail cannot be looked at", slog.Any("error", err))
		}
	})
	return nil
}

// Look takes one look.
func (w *Watch) Look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lookFor)
	defer cancel()
	found, err := w.Store.Figures(ctx, w.Window.Oldest(w.Clock()))
	if err != nil {
		return err
	}
	w.leaves.Set(float64(found.Leaves))
	w.deadLetters.Set(float64(found.DeadLetters))
	w.expiredDays.Set(float64(found.ExpiredDays))
	if !found.GrewAt.IsZero() {
		w.grewAt.Set(float64(found.GrewAt.UnixMilli()) / 1000)
	}
	return nil
}
