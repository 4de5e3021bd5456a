package monitoring

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRulesNameOnlyWhatTheServicesExport(t *testing.T) {
	t.Parallel()
	all := known(t)
	recorded, alerts := rules(t)
	require.NotEmpty(t, recorded)
	for _, expr := range recorded {
		requireKnown(t, all, expr.String())
	}
	used := regexp.MustCompile(`\$labels\.([a-z_]+)`)
	for _, alert := range alerts {
		has := requireKnown(t, all, alert.Expr)
		for _, text := range alert.Annotations {
			for _, match := range used.FindAllStringSubmatch(text, -1) {
				require.True(t, has[match[1]], "%s has no label %s", alert.Alert, match[1])
			}
		}
	}
}

func TestEveryAlertSaysHowBadItIsAndWhatToDo(t *testing.T) {
	t.Parallel()
	const page = "https://github.com/sentryagent/agentidp/blob/main/docs/runbooks.md#"
	_, alerts := rules(t)
	names := []string{}
	for _, alert := range alerts {
		require.NotContains(t, names, alert.Alert)
		names = append(names, alert.Alert)
		require.Contains(t, []string{"critical", "warning"}, alert.Labels["severity"], alert.Alert)
		require.NotEmpty(t, alert.Annotations["summary"], alert.Alert)
		require.NotEmpty(t, alert.Annotations["description"], alert.Alert)
		require.Equal(t, page+strings.ToLower(alert.Alert), alert.Annotations["runbook_url"])
	}

	runbooks, err := os.ReadFile(runbooksPage)
	require.NoError(t, err)
	sections := []string{}
	for _, match := range regexp.MustCompile(`(?m)^### (AgentIDP\w+)$`).FindAllStringSubmatch(string(runbooks), -1) {
		sections = append(sections, match[1])
	}
	slices.Sort(names)
	slices.Sort(sections)
	require.Equal(t, names, sections, "the alerts, and the sections of docs/runbooks.md")
	for _, match := range regexp.MustCompile(`\[(AgentIDP\w+)\]\(#(\w+)\)`).FindAllStringSubmatch(string(runbooks), -1) {
		require.Contains(t, sections, match[1])
		require.Equal(t, strings.ToLower(match[1]), match[2])
	}
}
