package dev

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestADataDirectoryHasOneUserAtATime(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a", "b")
	first, err := openDataDir(path, false)
	require.NoError(t, err)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())

	_, err = openDataDir(path, false)
	require.ErrorIs(t, err, errInUse)
	require.ErrorContains(t, err, path)

	require.NoError(t, first.close())
	second, err := openDataDir(path, false)
	require.NoError(t, err, "the lock is given back")
	require.NoError(t, second.close())
	require.DirExists(t, path)
}

func TestStaleFilesForScriptsAreGoneWhenARunStarts(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	settings := filepath.Join("secrets", keySettingsName)
	require.NoError(t, os.Mkdir(filepath.Join(path, "secrets"), 0o700))
	for _, name := range []string{operatorFileName, servicesFileName, settings, "kept"} {
		require.NoError(t, os.WriteFile(filepath.Join(path, name), []byte("old"), 0o600))
	}
	dir, err := openDataDir(path, false)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, dir.close()) })
	require.NoFileExists(t, dir.join(operatorFileName))
	require.NoFileExists(t, dir.join(servicesFileName))
	require.NoFileExists(t, dir.join(settings))
	require.FileExists(t, dir.join("kept"))
}

func TestAnEphemeralDirectoryIsRemovedAtTheEnd(t *testing.T) {
	t.Parallel()
	for name, path := range map[string]string{"a temporary one": "", "an empty one that was given": filepath.Join(t.TempDir(), "x")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			elsewhere := t.TempDir()
			dir, err := openDataDir(path, true)
			require.NoError(t, err)
			require.DirExists(t, dir.join("logs"))
			dir.alsoRemove(elsewhere)
			require.NoError(t, dir.close())
			require.NoDirExists(t, dir.path)
			require.NoDirExists(t, elsewhere)
		})
	}
}

func TestEphemeralDoesNotTakeADirectoryThatHoldsFiles(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	precious := filepath.Join(path, "precious")
	require.NoError(t, os.WriteFile(precious, nil, 0o600))
	_, err := openDataDir(path, true)
	require.ErrorContains(t, err, "--ephemeral")
	require.FileExists(t, precious)
}

func TestWhatAKilledEphemeralRunLeftIsThrownAway(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	killed, err := openDataDir(path, true)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(killed.join("left"), nil, 0o600))
	require.NoError(t, killed.lock.Close()) // as the kernel does

	_, err = openDataDir(path, false)
	require.ErrorContains(t, err, "--ephemeral", "a lasting run must not build on it")

	again, err := openDataDir(path, true)
	require.NoError(t, err)
	require.NoFileExists(t, again.join("left"))
	require.NoError(t, again.close())
}
