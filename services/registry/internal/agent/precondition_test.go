package agent_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/services/registry/internal/agent"
)

func TestPrecondition(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		lines []string
		holds bool
	}{
		"the agent's own tag":                         {[]string{`"7"`}, true},
		"any tag":                                     {[]string{`*`}, true},
		"any tag with space around it":                {[]string{" *\t"}, true},
		"a list with the agent's tag":                 {[]string{`"5", "7"`}, true},
		"a list over two lines":                       {[]string{`"5"`, `"7"`}, true},
		"an older tag":                                {[]string{`"6"`}, false},
		"a tag that the agent's begins with":          {[]string{`"77"`}, false},
		"the agent's tag made weak":                   {[]string{`W/"7"`}, false},
		"a list of a weak and an older one":           {[]string{`W/"7", "6"`}, false},
		"the agent's tag without quotes":              {[]string{`7`}, false},
		"empty":                                       {[]string{``}, false},
		"any tag in quotes":                           {[]string{`"*"`}, false},
		"any tag beside an older one is no such list": {[]string{`*, "6"`}, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, tt.holds, agent.ParsePrecondition(tt.lines).Holds(7))
		})
	}
	require.Nil(t, agent.ParsePrecondition(nil), "no header is no precondition")
	require.Equal(t, `"7"`, agent.ETag(7))
}
