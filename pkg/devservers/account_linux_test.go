package devservers

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAnAccountReachesWhatItsRightsLetItEnter(t *testing.T) {
	t.Parallel()
	parent, err := os.MkdirTemp("", "agentidp-reach-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(parent) })
	dir := filepath.Join(parent, "inner")
	require.NoError(t, os.Mkdir(dir, 0o755))
	uid, gid := os.Getuid(), os.Getgid()
	owner, member := account{uid: uid, gid: gid + 1}, account{uid: uid + 1, gid: gid}
	stranger := account{uid: uid + 1, gid: gid + 1}
	if !stranger.reaches(filepath.Dir(parent)) {
		t.Skip("the directory for temporary files is private here")
	}
	for mode, want := range map[os.FileMode][3]bool{
		0o700: {true, false, false}, 0o710: {true, true, false}, 0o701: {true, false, true}, 0o755: {true, true, true}, 0o011: {false, true, true},
	} {
		require.NoError(t, os.Chmod(parent, mode))
		if mode&0o100 == 0 && uid != 0 {
			continue // this test itself could not look
		}
		require.Equal(t, want, [3]bool{owner.reaches(dir), member.reaches(dir), stranger.reaches(dir)}, "%o", mode)
	}
	require.False(t, stranger.reaches(filepath.Join(parent, "absent")))
}

func TestTheDataOfAnotherUserIsPutWhereThatUserGets(t *testing.T) {
	t.Parallel()
	open := filepath.Join(os.TempDir(), "pg")
	same := account{uid: os.Getuid(), gid: os.Getgid()}
	dir, caps, err := same.place("/somewhere/private")
	require.NoError(t, err)
	require.Equal(t, "/somewhere/private", dir)
	require.Empty(t, caps)

	other := account{name: "postgres", uid: 1, gid: 1, other: true}
	if !other.reaches(os.TempDir()) {
		t.Skip("the directory for temporary files is private here")
	}
	dir, caps, err = other.place(open)
	require.NoError(t, err)
	require.Equal(t, open, dir)
	require.Empty(t, caps, "no capability where none is needed")

	private, err := os.MkdirTemp("", "agentidp-place-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(private) })
	dir, caps, err = other.place(filepath.Join(private, "pg"))
	require.NoError(t, err)
	if permitted(capDACReadSearch) {
		require.Equal(t, filepath.Join(private, "pg"), dir)
		require.Equal(t, []uintptr{capDACReadSearch}, caps)
	} else if !permitted(capDACOverride) {
		require.Equal(t, filepath.Join(os.TempDir(), fallbackName(filepath.Join(private, "pg"))), dir)
	}
	require.False(t, permitted(63), "there is no such capability")
}

func TestADirectoryOfSomebodyElseIsRefused(t *testing.T) {
	t.Parallel()
	mine := account{uid: os.Getuid(), gid: os.Getgid()}
	dir := filepath.Join(t.TempDir(), "a", "b")
	require.NoError(t, mine.own(dir))
	require.NoError(t, mine.own(dir))
	require.ErrorContains(t, account{uid: os.Getuid() + 1}.own(dir), "not a directory of the user")
	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(dir, link))
	require.ErrorContains(t, mine.own(link), "not a directory of the user")
}
