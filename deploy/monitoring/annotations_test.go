package monitoring

import (
	"context"
	"errors"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/template"
	"github.com/stretchr/testify/require"
)

// rendered is an annotation as whoever is woken by it reads it.
func rendered(t *testing.T, text string, sample promql.Sample) string {
	t.Helper()
	const variables = "{{$labels := .Labels}}{{$value := .Value}}" // as Prometheus defines them
	data := template.AlertTemplateData(sample.Metric.Map(), nil, "", sample)
	none := func(_ context.Context, _ string, _ time.Time) (promql.Vector, error) {
		return nil, errors.New("no annotation asks anything")
	}
	out, err := template.NewTemplateExpander(t.Context(), variables+text, "annotation", data, model.Time(0), none, &url.URL{}, nil).Expand()
	require.NoError(t, err, text)
	return out
}

// requireReadable fails where the annotations name a label that the alert does not have when it fires: it would read as nothing.
func requireReadable(t *testing.T, alert rulefmt.Rule, sample promql.Sample) {
	t.Helper()
	label := regexp.MustCompile(`\$labels\.(\w+)`)
	for _, text := range alert.Annotations {
		for _, match := range label.FindAllStringSubmatch(text, -1) {
			require.NotEmpty(t, sample.Metric.Get(match[1]), "%s fires without the label %s: %q", alert.Alert, match[1], rendered(t, text, sample))
		}
		require.NotContains(t, rendered(t, text, sample), "<no value>", alert.Alert)
	}
}

// Services that are gone leave no series behind that could say whose they were.
func TestEveryServiceThatIsGoneIsNamed(t *testing.T) {
	t.Parallel()
	_, alerts := rules(t)
	which := slices.IndexFunc(alerts, func(rule rulefmt.Rule) bool { return rule.Alert == "AgentIDPServiceGone" })
	gone := alerts[which]
	said := []string{}
	for _, sample := range asked(t, gone.Expr, at(30, `up{job="prometheus"} 1x60`)) {
		requireReadable(t, gone, sample)
		said = append(said, rendered(t, gone.Annotations["summary"], sample))
	}
	slices.Sort(said)
	require.Equal(t, []string{
		"No replica of audit answers Prometheus.", "No replica of credentials answers Prometheus.",
		"No replica of registry answers Prometheus.", "No replica of token answers Prometheus.",
	}, said, strings.TrimSpace(gone.Expr))
}
