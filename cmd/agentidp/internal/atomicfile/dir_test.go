package atomicfile_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/cmd/agentidp/internal/atomicfile"
)

func TestADirectoryIsMadeWithThoseAboveIt(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	path := filepath.Join(top, "a", "b", "c")
	for range 2 {
		require.NoError(t, atomicfile.MakeDir(path))
		require.DirExists(t, path)
	}
	file := filepath.Join(top, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.Error(t, atomicfile.MakeDir(filepath.Join(file, "below")))
}
