package credentials

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sentryagent/agentidp/pkg/idle"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/services/credentials/internal/secret"
)

// deleteEvery is the pause between two looks for what Vault has to delete.
const deleteEvery = 5 * time.Second

// deletions has Vault delete the secrets that ended, in the background: a revocation waits for nobody.
type deletions struct {
	secrets *secret.Service
	log     *slog.Logger
	overdue prometheus.Gauge
}

func newDeletions(secrets *secret.Service, tel *telemetry.Telemetry) *deletions {
	d := &deletions{secrets: secrets, log: tel.Log, overdue: prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "agentidp_vault_deletions_overdue", Help: "Secrets that ended and that Vault has yet to delete.",
	})}
	tel.Metrics.Registry.MustRegister(d.overdue)
	return d
}

// run until ctx ends, whatever is away meanwhile.
func (d *deletions) run(ctx context.Context) error {
	var outage idle.Outage
	idle.Every(ctx, deleteEvery, func(ctx context.Context) {
		err := d.pass(ctx)
		if outage.Begins(ctx, err) {
			d.log.WarnContext(ctx, "vault could not delete secrets that ended; trying again", slog.Any("error", err))
		}
		if overdue, err := d.secrets.OverdueDeletions(ctx); err == nil {
			d.overdue.Set(float64(overdue))
		}
	})
	return nil
}

func (d *deletions) pass(ctx context.Context) error {
	for {
		more, err := d.secrets.DeleteUnwanted(ctx)
		if err != nil || !more {
			return err
		}
	}
}
