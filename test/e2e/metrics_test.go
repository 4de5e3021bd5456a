package e2e

import (
	"cmp"
	"crypto/rand"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/auditlog"
	"github.com/sentryagent/agentidp/pkg/testkit"
)

const (
	metricsPage    = "../../docs/metrics.md"
	metricsOpening = "<!-- metrics -->\n"
	metricsClosing = "<!-- /metrics -->"
	updateMetrics  = "UPDATE_DOCS=1 go test -run TestTheMetricsPage ./test/e2e/"
)

// exported is a metric as the services show it.
type exported struct {
	name, kind, help string
	services         []string
	labels           map[string]map[string]bool // name → values
}

// closed are the labels whose values are few, known beforehand and there at zero; the others depend on what is asked.
func closed(label string) bool {
	return slices.Contains([]string{"outcome", "result", "state", "fault", "dependency", "certificate"}, label)
}

// scrape reads the metrics of one service into all.
func (in *installation) scrape(t *testing.T, service string, all map[string]*exported) {
	t.Helper()
	resp, err := http.Get(in.internal[service] + "/metrics")
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	require.Equal(t, http.StatusOK, resp.StatusCode)
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(resp.Body)
	require.NoError(t, err)
	for name, family := range families {
		one := all[name]
		if one == nil {
			one = &exported{name: name, kind: strings.ToLower(family.GetType().String()), help: family.GetHelp(), labels: map[string]map[string]bool{}}
			all[name] = one
		}
		if !slices.Contains(one.services, service) {
			one.services = append(one.services, service)
		}
		for _, metric := range family.GetMetric() {
			one.addLabels(metric.GetLabel())
		}
	}
}

func (e *exported) addLabels(pairs []*dto.LabelPair) {
	for _, pair := range pairs {
		if e.labels[pair.GetName()] == nil {
			e.labels[pair.GetName()] = map[string]bool{}
		}
		e.labels[pair.GetName()][pair.GetValue()] = true
	}
}

// row is a line of the page.
func (e *exported) row() string {
	labels := []string{}
	for _, label := range slices.Sorted(maps.Keys(e.labels)) {
		text := "`" + label + "`"
		if values := slices.Sorted(maps.Keys(e.labels[label])); closed(label) && e.name != "agentidp_cache_requests_total" {
			text += ": " + strings.Join(values, " ")
		}
		labels = append(labels, text)
	}
	services := "all"
	if len(e.services) < 4 {
		services = strings.Join(e.services, ", ")
	}
	return fmt.Sprintf("| `%s` | %s | %s | %s | %s |\n", e.name, e.kind, strings.Join(labels, "; "), services, e.help)
}

// use asks for a little of everything, so that every metric with labels has a series.
func (in *installation) use(t *testing.T) {
	t.Helper()
	operator := in.operator(t)
	agent := in.register(t, operator, "measured@example.com", nil)
	_, secret := in.credential(t, operator, agent)
	token := in.token(t, agent, secret, "")
	require.Equal(t, http.StatusOK, in.call(t, http.MethodGet, "/api/v1/agents/"+agent, token, nil).status)
	refused := in.form(t, "/api/v1/token", url.Values{"grant_type": {"client_credentials"}, "client_id": {agent}, "client_secret": {"wrong"}})
	require.Equal(t, http.StatusUnauthorized, refused.status)
	eventually(t, func() bool { return len(in.trail(t, operator, "agentId="+agent)) > 2 }, "the events are in the trail")
}

// What the page says is what operators' rules and dashboards are held against.
func TestTheMetricsPageTellsWhatTheServicesExport(t *testing.T) {
	t.Parallel()
	_, witness, err := auditlog.GenerateWitnessKey(rand.Reader, "witness.example.com")
	require.NoError(t, err)
	vault := testkit.StartVault(t, "")
	in := install(t, "AUDIT_WITNESSES="+witness+"@http://127.0.0.1:9", // nobody listens there
		"CREDENTIALS_VAULT_ADDR="+vault.URL, "CREDENTIALS_VAULT_TOKEN="+vault.Token)
	in.use(t)
	require.Len(t, vault.Paths(), 2, "the secrets of the operator and of the agent")
	page, err := os.ReadFile(metricsPage)
	require.NoError(t, err)
	before, rest, found := strings.Cut(string(page), metricsOpening)
	require.True(t, found)
	_, after, found := strings.Cut(rest, metricsClosing)
	require.True(t, found)
	all := map[string]*exported{}
	for _, service := range slices.Sorted(maps.Keys(in.internal)) {
		in.scrape(t, service, all)
	}
	want := before + metricsOpening + table(all) + metricsClosing + after
	if os.Getenv("UPDATE_DOCS") != "" {
		require.NoError(t, os.WriteFile(metricsPage, []byte(want), 0o644))
		return
	}
	require.Equal(t, want, string(page), "docs/metrics.md: "+updateMetrics)
}

// ofProcess are the metrics of every Go program that rules and dashboards use.
var ofProcess = []string{
	"go_goroutines", "process_cpu_seconds_total", "process_open_fds", "process_resident_memory_bytes", "process_start_time_seconds",
}

// table has our own metrics, and those of the process that dashboards show.
func table(all map[string]*exported) string {
	text := strings.Builder{}
	text.WriteString("| metric | type | labels | services | meaning |\n|---|---|---|---|---|\n")
	rows := slices.SortedFunc(maps.Values(all), func(a, b *exported) int { return cmp.Compare(a.name, b.name) })
	for _, one := range rows {
		if strings.HasPrefix(one.name, "agentidp_") || slices.Contains(ofProcess, one.name) {
			text.WriteString(one.row())
		}
	}
	return text.String()
}
