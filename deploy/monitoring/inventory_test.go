package monitoring

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/stretchr/testify/require"
)

const (
	metricsPage  = "../../docs/metrics.md"
	runbooksPage = "../../docs/runbooks.md"
)

// metric is one that the services export.
type metric struct {
	kind   string
	labels map[string][]string // name → values, nil where they are not known beforehand
}

// inventory reads the metrics from the page that is held against running services.
func inventory(t *testing.T) map[string]metric {
	t.Helper()
	page, err := os.ReadFile(metricsPage)
	require.NoError(t, err)
	row := regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| (counter|gauge|histogram) \\| ([^|]*) \\|")
	label := regexp.MustCompile("^`([a-z_]+)`(?:: (.*))?$")
	all := map[string]metric{}
	for _, match := range row.FindAllStringSubmatch(string(page), -1) {
		one := metric{kind: match[2], labels: map[string][]string{"job": nil, "instance": nil}}
		for _, text := range strings.Split(match[3], "; ") {
			if found := label.FindStringSubmatch(strings.TrimSpace(text)); found != nil {
				one.labels[found[1]] = strings.Fields(found[2])
			}
		}
		all[match[1]] = one
		if one.kind == "histogram" {
			one.kind = "counter"
			all[match[1]+"_count"], all[match[1]+"_sum"] = one, one
			buckets := metric{kind: "counter", labels: map[string][]string{"le": nil}}
			for name, values := range one.labels {
				buckets.labels[name] = values
			}
			all[match[1]+"_bucket"] = buckets
		}
	}
	require.Greater(t, len(all), 30)
	all["up"] = metric{kind: "gauge", labels: map[string][]string{"job": nil, "instance": nil}} // Prometheus' own
	return all
}

func ruleFiles(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("prometheus/rules/*.yml")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	return files
}

// rules are those of all files, read as Prometheus reads them.
func rules(t *testing.T) (recorded map[string]parser.Expr, alerts []rulefmt.Rule) {
	t.Helper()
	recorded = map[string]parser.Expr{}
	for _, file := range ruleFiles(t) {
		groups, errs := rulefmt.ParseFile(file, false)
		require.Empty(t, errs, file)
		for _, group := range groups.Groups {
			for _, rule := range group.Rules {
				if rule.Alert != "" {
					alerts = append(alerts, rule)
					continue
				}
				expr, err := parser.ParseExpr(rule.Expr)
				require.NoError(t, err, rule.Record)
				require.NotContains(t, recorded, rule.Record)
				recorded[rule.Record] = expr
			}
		}
	}
	return recorded, alerts
}

// known is the inventory with what the recording rules make.
func known(t *testing.T) map[string]metric {
	t.Helper()
	all := inventory(t)
	recorded, _ := rules(t)
	for name := range recorded {
		all[name] = metric{kind: "gauge", labels: map[string][]string{}}
	}
	return all
}

// requireKnown fails where an expression names a metric, a label or a value of one that there is not, or takes the rate of
// what only goes up and down. It answers the labels of all its metrics.
func requireKnown(t *testing.T, all map[string]metric, text string) map[string]bool {
	t.Helper()
	expr, err := parser.ParseExpr(text)
	require.NoError(t, err, text)
	has := map[string]bool{}
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		switch node := node.(type) {
		case *parser.VectorSelector:
			one, is := all[node.Name]
			require.True(t, is, "no service exports %q, in %s", node.Name, text)
			for label := range one.labels {
				has[label] = true
			}
			for _, matcher := range node.LabelMatchers {
				if matcher.Name != labels.MetricName {
					requireMatches(t, one, matcher, text)
				}
			}
		case *parser.Call:
			if slices.Contains([]string{"rate", "irate", "increase"}, node.Func.Name) {
				requireCounter(t, all, node, text)
			}
		}
		return nil
	})
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		grouping := []string{}
		switch node := node.(type) {
		case *parser.AggregateExpr:
			grouping = node.Grouping
		case *parser.BinaryExpr:
			if node.VectorMatching != nil {
				grouping = node.VectorMatching.MatchingLabels
			}
		}
		for _, label := range grouping {
			require.True(t, has[label], "no metric has the label %q, in %s", label, text)
		}
		return nil
	})
	return has
}

func requireMatches(t *testing.T, one metric, matcher *labels.Matcher, text string) {
	t.Helper()
	values, is := one.labels[matcher.Name]
	require.True(t, is, "there is no label %s, in %s", matcher.Name, text)
	if len(values) == 0 || strings.Contains(matcher.Value, "$") {
		return
	}
	for _, alternative := range strings.Split(matcher.Value, "|") {
		require.Contains(t, values, alternative, "%s has no such value, in %s", matcher.Name, text)
	}
}

func requireCounter(t *testing.T, all map[string]metric, call *parser.Call, text string) {
	t.Helper()
	parser.Inspect(call, func(node parser.Node, _ []parser.Node) error {
		if selector, is := node.(*parser.VectorSelector); is {
			require.Equal(t, "counter", all[selector.Name].kind, "%s of %s, in %s", call.Func.Name, selector.Name, text)
		}
		return nil
	})
}
