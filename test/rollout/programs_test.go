package rollout

import (
	"context"
	"os"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/devservers"
	"github.com/sentryagent/agentidp/test/internal/rig"
)

// directory holds the programs of this tree, for all tests.
var directory = sync.OnceValues(func() (string, error) { return os.MkdirTemp("", "agentidp-rollout-") })

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, err := directory(); err == nil {
		_ = os.RemoveAll(dir)
	}
	os.Exit(code)
}

// programs builds those of this tree once, and gives their directory and that of the source.
func programs(t *testing.T) (bin, root string) {
	t.Helper()
	if missing := devservers.Missing(); len(missing) > 0 && os.Getenv("CI") == "" {
		t.Skipf("not installed: %s", missing)
	}
	root, err := rig.FindRoot()
	require.NoError(t, err)
	bin, err = directory()
	require.NoError(t, err)
	require.NoError(t, rig.Build(context.WithoutCancel(t.Context()), root, bin))
	return bin, root
}
