package auditor_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/cmd/agentidp/internal/auditor"
)

func TestADirectoryIsMadeWithThoseAboveIt(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	path := filepath.Join(top, "a", "b", "c")
	for range 2 {
		require.NoError(t, auditor.MakeDir(path))
		require.DirExists(t, path)
	}
	file := filepath.Join(top, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.Error(t, auditor.MakeDir(filepath.Join(file, "below")))
}
