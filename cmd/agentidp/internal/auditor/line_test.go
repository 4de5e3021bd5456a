package auditor_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/cmd/agentidp/internal/auditor"
)

func TestAnExportIsGoneOnWithWhereItEnds(t *testing.T) {
	t.Parallel()
	const (
		header = `{"checkpoint":"","treeSize":9,"first":3,"before":[],"filtered":true}`
		leaf   = `{"leafIndex":4,"leafHash":"9nHWqBJD2mr4oKFTmMyOtnPLDMCrCBQGIcWlBv6BGfY=","event":null}`
		stray  = `{"leafIndex":4711,"leafHash":"9nHWqBJD2mr4oKFTmMyOtnPLDMCrCBQGIcWlBv6BGfY=","event":{}}`
	)
	for name, test := range map[string]struct {
		lines []string
		want  int64
	}{
		"nothing":                            {nil, 0},
		"a header":                           {[]string{header}, 3},
		"the last leaf, where it breaks off": {[]string{header, leaf}, 5},
		"a leaf that has two lines":          {[]string{header, leaf, leaf}, 5},
		"the cursor of a trailer, where few leaves match":  {[]string{header, leaf, `{"cursor":"9","complete":true,"dropped":[]}`}, 9},
		"the cursor of a trailer that is not the end":      {[]string{header, leaf, `{"cursor":"7","complete":false,"dropped":[]}`}, 7},
		"an event that is no leaf":                         {[]string{header, leaf, stray}, 5},
		"an event that is no leaf, and a trailer":          {[]string{header, leaf, stray, `{"cursor":"9","complete":true,"dropped":[]}`}, 9},
		"a cursor behind the tree":                         {[]string{header, leaf, `{"cursor":"4711","complete":true,"dropped":[]}`}, 9},
		"a cursor that is none":                            {[]string{header, leaf, `{"cursor":"x","complete":true,"dropped":[]}`}, 5},
		"a further part, which goes on with a larger tree": {[]string{header, `{"cursor":"9","complete":true,"dropped":[]}`, `{"checkpoint":"","treeSize":12,"first":9,"before":[],"filtered":true}`}, 9},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			written := strings.Join(append(test.lines, ""), "\n")
			whole, cursor, err := auditor.Resume(strings.NewReader(written + `{"leafIndex":8,"leaf`))
			require.NoError(t, err)
			require.EqualValues(t, len(written), whole)
			require.Equal(t, test.want, cursor)
		})
	}
}
