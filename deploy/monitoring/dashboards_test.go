package monitoring

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

type source struct{ Type, UID string }

type area struct{ H, W, X, Y int }

type panel struct {
	ID         int
	Type       string
	Title      string
	Datasource source
	GridPos    area
	Targets    []struct {
		RefID, Expr, LegendFormat string
		Datasource                source
	}
	FieldConfig struct{ Defaults struct{ Unit string } }
}

type dashboard struct {
	UID, Title, Description string
	SchemaVersion           int
	Tags                    []string
	Templating              struct {
		List []struct{ Name, Type, Query string }
	}
	Panels []panel
}

func dashboards(t *testing.T) map[string]dashboard {
	t.Helper()
	files, err := filepath.Glob("grafana/dashboards/*.json")
	require.NoError(t, err)
	all := map[string]dashboard{}
	for _, file := range files {
		content, err := os.ReadFile(file)
		require.NoError(t, err)
		var one dashboard
		require.NoError(t, json.Unmarshal(content, &one), file)
		require.Equal(t, one.UID+".json", filepath.Base(file))
		all[one.UID] = one
	}
	return all
}

func TestThereIsADashboardOfAllAndOneOfEachService(t *testing.T) {
	t.Parallel()
	titles := map[string]string{}
	for uid, one := range dashboards(t) {
		titles[uid] = one.Title
		require.NotEmpty(t, one.Description, uid)
		require.Equal(t, []string{"agentidp"}, one.Tags, "they link to each other by it")
		require.Equal(t, 39, one.SchemaVersion, "what Grafana 11 writes, and 12 reads")
		require.Len(t, one.Templating.List, 1)
		require.Equal(t, "datasource", one.Templating.List[0].Type)
	}
	require.Equal(t, map[string]string{
		"agentidp-overview": "AgentIdP: overview", "agentidp-registry": "AgentIdP: registry", "agentidp-credentials": "AgentIdP: credentials",
		"agentidp-token": "AgentIdP: token", "agentidp-audit": "AgentIdP: audit",
	}, titles)
}

func TestEveryPanelShowsWhatTheServicesExport(t *testing.T) {
	t.Parallel()
	all := known(t)
	variables := strings.NewReplacer("$__rate_interval", "1m")
	for uid, one := range dashboards(t) {
		for _, p := range one.Panels {
			where := uid + ": " + p.Title
			require.NotEmpty(t, p.Title, uid)
			if p.Type == "row" {
				continue
			}
			require.Contains(t, []string{"timeseries", "stat"}, p.Type, where)
			require.NotEmpty(t, p.FieldConfig.Defaults.Unit, where)
			require.Equal(t, source{Type: "prometheus", UID: "${datasource}"}, p.Datasource, where)
			require.NotEmpty(t, p.Targets, where)
			refs := map[string]bool{}
			for _, target := range p.Targets {
				require.False(t, refs[target.RefID], where)
				refs[target.RefID] = true
				require.Equal(t, p.Datasource, target.Datasource, where)
				has := requireKnown(t, all, variables.Replace(target.Expr))
				for _, part := range strings.Split(target.LegendFormat, "{{")[1:] {
					label, _, _ := strings.Cut(part, "}}")
					require.True(t, has[label], "%s: no label %s", where, label)
				}
			}
		}
	}
}

func TestPanelsLieBesideEachOther(t *testing.T) {
	t.Parallel()
	for uid, one := range dashboards(t) {
		ids := map[int]bool{}
		for i, p := range one.Panels {
			require.False(t, ids[p.ID], "%s: the id of %s is another's", uid, p.Title)
			ids[p.ID] = true
			require.LessOrEqual(t, p.GridPos.X+p.GridPos.W, 24, "%s: %s", uid, p.Title)
			for _, other := range one.Panels[:i] {
				require.False(t, overlap(p.GridPos, other.GridPos), "%s: %s lies on %s", uid, p.Title, other.Title)
			}
		}
	}
}

func overlap(a, b area) bool {
	return a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H
}

func TestPrometheusScrapesEveryServiceAndReadsTheRules(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("prometheus/prometheus.yml")
	require.NoError(t, err)
	var config struct {
		RuleFiles     []string `yaml:"rule_files"`
		ScrapeConfigs []struct {
			JobName      string `yaml:"job_name"`
			DNSSDConfigs []struct {
				Names []string
				Port  int
			} `yaml:"dns_sd_configs"`
		} `yaml:"scrape_configs"`
	}
	require.NoError(t, yaml.Unmarshal(content, &config))
	require.Equal(t, []string{"rules/*.yml"}, config.RuleFiles)
	jobs := []string{}
	for _, scrape := range config.ScrapeConfigs {
		for _, found := range scrape.DNSSDConfigs {
			jobs = append(jobs, scrape.JobName)
			require.Equal(t, []string{scrape.JobName}, found.Names, "rules tell services by the job")
			require.Equal(t, 9090, found.Port)
		}
	}
	require.Equal(t, []string{"registry", "credentials", "token", "audit"}, jobs)
}
