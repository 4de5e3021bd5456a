package devservers

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// fakeSystem is a root folder of a Debian system and an apt-get that notes what it is asked, and
// what it finds while it is. Tests that use it set PATH, so they do not run in parallel.
func fakeSystem(t *testing.T, aptExit string) (i installer, said *bytes.Buffer, calls string) {
	t.Helper()
	root, bin := t.TempDir(), t.TempDir()
	for _, dir := range []string{"etc", "usr/sbin"} {
		require.NoError(t, os.MkdirAll(filepath.Join(root, dir), 0o755))
	}
	require.NoError(t, os.WriteFile(filepath.Join(root, "etc/debian_version"), []byte("12.5\n"), 0o644))
	calls = filepath.Join(bin, "calls")
	script := "#!/bin/sh\necho \"$@\" >>" + calls + "\ncat " + root + "/usr/sbin/policy-rc.d " + root + dropInDir + "/* >>" + calls + " 2>/dev/null\nexit " + aptExit + "\n"
	require.NoError(t, os.WriteFile(filepath.Join(bin, "apt-get"), []byte(script), 0o755))
	t.Setenv("PATH", bin+":/bin:/usr/bin")
	said = &bytes.Buffer{}
	return installer{root: root, euid: 0, log: said}, said, calls
}

func TestInstallHoldsServersWhileAptWorksAndTakesItBack(t *testing.T) {
	i, said, calls := fakeSystem(t, "0")
	require.NoError(t, i.install(context.Background(), []string{"postgresql", "redis-server"}))
	noted, err := os.ReadFile(calls)
	require.NoError(t, err)
	require.Contains(t, string(noted), "install -q -y --no-upgrade --no-install-recommends postgresql redis-server\n"+policyScript+dropIn)
	require.NoFileExists(t, filepath.Join(i.root, policyPath))
	require.NoDirExists(t, filepath.Join(i.root, "etc/postgresql-common"))
	require.Contains(t, said.String(), "will be installed now: postgresql redis-server")
	require.Contains(t, said.String(), policyPath)
}

func TestInstallTakesItBackWhenAptFails(t *testing.T) {
	i, _, _ := fakeSystem(t, "100")
	require.ErrorContains(t, i.install(context.Background(), []string{"postgresql"}), "apt-get update")
	require.NoFileExists(t, filepath.Join(i.root, policyPath))
	require.NoDirExists(t, filepath.Join(i.root, "etc/postgresql-common"))
}

func TestInstallLeavesWhatIsThereAlready(t *testing.T) {
	i, said, _ := fakeSystem(t, "0")
	policy := filepath.Join(i.root, policyPath)
	own := filepath.Join(i.root, dropInDir, dropInName)
	require.NoError(t, os.WriteFile(policy, []byte("#!/bin/sh\nexit 0\n"), 0o755))
	require.NoError(t, os.MkdirAll(filepath.Dir(own), 0o755))
	require.NoError(t, os.WriteFile(own, []byte("# of the administrator\n"), 0o644))
	require.NoError(t, i.install(context.Background(), []string{"postgresql"}))
	kept, err := os.ReadFile(policy)
	require.NoError(t, err)
	require.Equal(t, "#!/bin/sh\nexit 0\n", string(kept))
	require.FileExists(t, own)
	require.Contains(t, said.String(), "is there already")
}

func TestInstallTakesBackWhatAKilledRunLeft(t *testing.T) {
	i, _, _ := fakeSystem(t, "0")
	policy := filepath.Join(i.root, policyPath)
	require.NoError(t, os.WriteFile(policy, []byte(policyScript), 0o755))
	require.NoError(t, i.install(context.Background(), []string{"postgresql"}))
	require.NoFileExists(t, policy)
}

func TestInstallSaysWhatToDoWhereItMayNot(t *testing.T) {
	i, said, calls := fakeSystem(t, "0")
	i.euid = 1000
	require.ErrorContains(t, i.install(context.Background(), []string{"redis-server"}), "sudo apt-get install redis-server")

	i.euid = 0
	require.NoError(t, os.Remove(filepath.Join(i.root, "etc/debian_version")))
	require.ErrorContains(t, i.install(context.Background(), []string{"redis-server"}), "redis-server")
	require.NoFileExists(t, calls)
	require.Empty(t, said.String())
}

func TestAProxyInThePathIsFound(t *testing.T) {
	_, _, calls := fakeSystem(t, "0")
	program := filepath.Join(filepath.Dir(calls), "haproxy")
	require.NoError(t, os.WriteFile(program, []byte("#!/bin/sh\n"), 0o755))
	found, err := FindHAProxy()
	require.NoError(t, err)
	require.Equal(t, program, found)
	require.NotContains(t, MissingForTests(), "haproxy")
}

func TestACompilerForTheRaceDetectorIsMissed(t *testing.T) {
	bin := t.TempDir()
	t.Setenv("PATH", bin)
	t.Setenv("CC", "")
	wanted := []string{"gcc", "libc6-dev"}
	require.Subset(t, MissingForTests(), wanted)
	require.NotSubset(t, Missing(), wanted)

	require.NoError(t, os.WriteFile(filepath.Join(bin, "gcc"), []byte("#!/bin/sh\n"), 0o755))
	require.NotContains(t, MissingForTests(), "gcc")
	t.Setenv("CC", "clang -m64")
	require.Subset(t, MissingForTests(), wanted)
	require.NoError(t, os.WriteFile(filepath.Join(bin, "clang"), []byte("#!/bin/sh\n"), 0o755))
	require.NotContains(t, MissingForTests(), "gcc")
}

func TestInstallOfNothingDoesNothing(t *testing.T) {
	i, said, calls := fakeSystem(t, "0")
	require.NoError(t, i.install(context.Background(), nil))
	require.NoFileExists(t, calls)
	require.Empty(t, said.String())
}
