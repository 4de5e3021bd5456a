package rig

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Work is what a replica says that it has done since it started.
type Work struct {
	// Public and Internal are the requests that it answered: of the world, and of other services.
	Public, Internal int64
	// Stored are the events that it took into the trail.
	Stored int64
	// Unlimited are the requests that it let pass uncounted because Redis did not answer in time.
	Unlimited int64
}

// Less is what was done since then.
func (w Work) Less(then Work) Work {
	return Work{
		Public: w.Public - then.Public, Internal: w.Internal - then.Internal,
		Stored: w.Stored - then.Stored, Unlimited: w.Unlimited - then.Unlimited,
	}
}

// Work asks a replica.
func (r *Rig) Work(ctx context.Context, name string) (Work, error) {
	metrics, err := r.call(ctx, http.MethodGet, r.Internal(name)+"/metrics", nil)
	if err != nil {
		return Work{}, fmt.Errorf("metrics of %s: %w", name, err)
	}
	work, err := readWork(metrics)
	if err != nil {
		return Work{}, fmt.Errorf("metrics of %s: %w", name, err)
	}
	return work, nil
}

func readWork(metrics []byte) (Work, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(metrics))
	if err != nil {
		return Work{}, err
	}
	requests := func(prefix string) int64 {
		return sum(families["agentidp_http_requests_total"], func(labels map[string]string) bool {
			return strings.HasPrefix(labels["path"], prefix)
		})
	}
	return Work{
		Public:   requests("/api/v1/") + requests("/.well-known/"),
		Internal: requests("/internal/v1/"),
		Stored: sum(families["agentidp_audit_events_total"], func(labels map[string]string) bool {
			return labels["result"] == "stored"
		}),
		Unlimited: sum(families["agentidp_rate_limit_open_total"], func(map[string]string) bool { return true }),
	}, nil
}

// sum of the counters of a family, nil for none, whose labels are wanted.
func sum(family *dto.MetricFamily, wanted func(labels map[string]string) bool) int64 {
	total := 0.0
	for _, metric := range family.GetMetric() {
		labels := map[string]string{}
		for _, label := range metric.GetLabel() {
			labels[label.GetName()] = label.GetValue()
		}
		if wanted(labels) {
			total += metric.GetCounter().GetValue()
		}
	}
	return int64(total)
}
