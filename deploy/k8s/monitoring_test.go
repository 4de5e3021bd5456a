package k8s

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

const (
	prometheusRules = "../monitoring/prometheus/rules"
	operatorRules   = "components/prometheus-operator/rules"
	updateRules     = "UPDATE_DOCS=1 go test -run TestTheOperatorsRules ./deploy/k8s/"
)

// operatorRule is a rule file of Prometheus as the spec of a PrometheusRule, with its comments.
func operatorRule(name, rules string) string {
	var text strings.Builder
	fmt.Fprintf(&text, `# From deploy/monitoring/prometheus/rules/%[1]s.yml: %[2]s
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: agentidp-%[1]s
  labels: {app.kubernetes.io/part-of: agentidp, app.kubernetes.io/name: rules}
spec:
`, name, updateRules)
	for line := range strings.Lines(rules) {
		if strings.TrimSpace(line) != "" {
			text.WriteString("  ")
		}
		text.WriteString(line)
	}
	return text.String()
}

func TestTheOperatorsRulesAreThoseOfPrometheus(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(prometheusRules + "/*.yml")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	want := map[string]string{}
	for _, file := range files {
		rules, err := os.ReadFile(file)
		require.NoError(t, err)
		name := strings.TrimSuffix(filepath.Base(file), ".yml")
		want[name+".yaml"] = operatorRule(name, string(rules))

		var made struct{ Spec map[string]any }
		require.NoError(t, yaml.Unmarshal([]byte(want[name+".yaml"]), &made))
		var from map[string]any
		require.NoError(t, yaml.Unmarshal(rules, &from))
		require.Equal(t, from, made.Spec, name)
	}
	if os.Getenv("UPDATE_DOCS") != "" {
		for name, text := range want {
			require.NoError(t, os.WriteFile(filepath.Join(operatorRules, name), []byte(text), 0o644))
		}
	}
	made, err := os.ReadDir(operatorRules)
	require.NoError(t, err)
	for _, file := range made {
		have, err := os.ReadFile(filepath.Join(operatorRules, file.Name()))
		require.NoError(t, err)
		require.Equal(t, want[file.Name()], string(have), "%s: %s", file.Name(), updateRules)
	}
	require.Len(t, made, len(want), "a rule file of each; "+updateRules)
}

func TestTheOperatorHasEveryAlarm(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(prometheusRules + "/*.yml")
	require.NoError(t, err)
	everyVariant(t, func(t *testing.T, v built) {
		monitors, rules := of[*monitoringv1.ServiceMonitor](v), of[*monitoringv1.PrometheusRule](v)
		if len(monitors) == 0 {
			require.Empty(t, rules)
			return
		}
		require.Len(t, monitors, len(services()))
		require.Len(t, rules, len(files))
		for _, monitor := range monitors {
			require.Contains(t, services(), monitor.Name)
			require.Equal(t, "app.kubernetes.io/name", monitor.Spec.JobLabel, "rules know services by the label job")
		}
	})
}
