package main

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/services/audit"
	"github.com/sentryagent/agentidp/services/credentials"
	"github.com/sentryagent/agentidp/services/registry"
	"github.com/sentryagent/agentidp/services/token"
)

const (
	readme      = "../../README.md"
	envExample  = "../../.env.example"
	opening     = "<!-- settings -->\n"
	closing     = "<!-- /settings -->"
	updateWith  = "UPDATE_DOCS=1 go test -run TestTheSettings ./cmd/agentidp/"
	envPreamble = "# Every setting of every service with its default; generated. " +
		"Lines without a value have to be set.\n# REGISTRY_, CREDENTIALS_, TOKEN_ or AUDIT_ in front of a name sets it for that service alone.\n"
)

// documented is a setting and the services that have it.
type documented struct {
	config.Setting
	services []string
}

func settings() []documented {
	var all []documented
	for _, service := range []struct {
		name   string
		config any
	}{{"registry", registry.Config{}}, {"credentials", credentials.Config{}}, {"token", token.Config{}}, {"audit", audit.Config{}}} {
		for _, setting := range config.Settings(service.config) {
			i := slices.IndexFunc(all, func(d documented) bool { return d.Name == setting.Name })
			if i < 0 {
				all = append(all, documented{Setting: setting})
				i = len(all) - 1
			}
			all[i].services = append(all[i].services, service.name)
		}
	}
	slices.SortStableFunc(all, func(a, b documented) int { return cmp.Compare(len(b.services), len(a.services)) })
	return all
}

func TestTheSettingsInTheDocsAreThoseOfTheServices(t *testing.T) {
	t.Parallel()
	var table, example strings.Builder
	table.WriteString("| setting | service | default | meaning |\n|---|---|---|---|\n")
	example.WriteString(envPreamble)
	for _, s := range settings() {
		require.NotEmpty(t, s.Description, s.Name)
		who := strings.Join(s.services, ", ")
		if len(s.services) == 4 {
			who = "all"
		}
		fallback := "none"
		if s.Default != "" {
			fallback = "`" + s.Default + "`"
		}
		if s.Required {
			fallback = "**required**"
		}
		if s.Secret {
			who += " (secret)"
		}
		fmt.Fprintf(&table, "| `%s` | %s | %s | %s |\n", s.Name, who, fallback, s.Description)
		fmt.Fprintf(&example, "\n# %s (%s)\n%s=%s\n", s.Description, who, s.Name, s.Default)
	}
	page, err := os.ReadFile(readme)
	require.NoError(t, err)
	before, rest, found := strings.Cut(string(page), opening)
	require.True(t, found)
	_, after, found := strings.Cut(rest, closing)
	require.True(t, found)
	want := before + opening + table.String() + closing + after
	if os.Getenv("UPDATE_DOCS") != "" {
		require.NoError(t, os.WriteFile(readme, []byte(want), 0o644))
		require.NoError(t, os.WriteFile(envExample, []byte(example.String()), 0o644))
		return
	}
	require.Equal(t, want, string(page), "README.md: "+updateWith)
	have, err := os.ReadFile(envExample)
	require.NoError(t, err)
	require.Equal(t, example.String(), string(have), ".env.example: "+updateWith)
}
