package dev

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/note"
)

func requirePrivate(t *testing.T, path string) {
	t.Helper()
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm(), path)
}

func TestAShellCanSourceTheOperatorFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), operatorFileName)
	op := operator{clientID: uuid.New(), secret: "sk_live_abc"}
	require.NoError(t, writeOperatorFile(path, "http://127.0.0.1:8080", op))

	requirePrivate(t, path)
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "AGENTIDP_URL=http://127.0.0.1:8080\nAGENTIDP_CLIENT_ID="+op.clientID.String()+
		"\nAGENTIDP_CLIENT_SECRET=sk_live_abc\n", string(content))
}

func TestShellQuotingSurvivesTheShell(t *testing.T) {
	t.Parallel()
	for _, value := range []string{"plain-1.2_3:/@", "", "a b", "it's", "$HOME `id` \"x\" \\", "*"} {
		out, err := exec.CommandContext(t.Context(), "sh", "-c", "X="+shellQuote(value)+"; printf %s \"$X\"").Output()
		require.NoError(t, err)
		require.Equal(t, value, string(out))
	}
}

func TestTheServicesFileNamesEveryAddress(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), servicesFileName)
	require.NoError(t, writeServicesFile(path, handoff{URL: "http://u", InternalTokenFile: "/f", Services: map[string]endpoint{
		"token": {PublicURL: "http://p", InternalURL: "http://i"},
	}}))
	requirePrivate(t, path)
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	require.JSONEq(t, `{"url":"http://u","internalTokenFile":"/f","services":{"token":{"publicUrl":"http://p","internalUrl":"http://i"}}}`, string(content))
}

func TestKeysAreMadeOnceAndKept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, err := loadKeys(dir, rand.Reader, false)
	require.NoError(t, err)
	raw, err := base64.StdEncoding.DecodeString(first.encryption.Reveal())
	require.NoError(t, err)
	require.Len(t, raw, 32)
	require.Len(t, first.internal.Reveal(), 64)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 5)
	_, err = note.NewSigner(first.auditLog.Reveal())
	require.NoError(t, err)
	for _, entry := range entries {
		requirePrivate(t, filepath.Join(dir, entry.Name()))
	}

	second, err := loadKeys(dir, rand.Reader, true)
	require.NoError(t, err)
	require.Equal(t, first, second)
	other, err := loadKeys(t.TempDir(), rand.Reader, false)
	require.NoError(t, err)
	require.NotEqual(t, first.encryption, other.encryption)
}

func TestEveryRoleHasItsOwnPassword(t *testing.T) {
	t.Parallel()
	k := keys{database: "master"}
	require.Equal(t, k.rolePassword("registry_app"), k.rolePassword("registry_app"))
	require.NotEqual(t, k.rolePassword("registry_app"), k.rolePassword("registry_owner"))
	require.NotEqual(t, k.rolePassword("registry_app"), keys{database: "other"}.rolePassword("registry_app"))
}

func TestNoNewKeyIsMadeBesideADatabaseThatNeedsTheOldOne(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"key-encryption-key", "database-password"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			_, err := loadKeys(dir, rand.Reader, false)
			require.NoError(t, err)
			require.NoError(t, os.Remove(filepath.Join(dir, name)))
			_, err = loadKeys(dir, rand.Reader, true)
			require.ErrorContains(t, err, name)
			require.NoFileExists(t, filepath.Join(dir, name))
		})
	}
}

func TestAKeyFileThatCannotBeReadIsAnError(t *testing.T) {
	t.Parallel()
	empty := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(empty, "internal-api-token"), []byte("\n"), 0o600))
	_, err := loadKeys(empty, rand.Reader, false)
	require.ErrorContains(t, err, "is empty")

	odd := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(odd, "internal-api-token"), 0o700))
	_, err = loadKeys(odd, rand.Reader, false)
	require.Error(t, err)

	_, err = loadKeys(t.TempDir(), strings.NewReader("short"), false)
	require.Error(t, err, "a source that runs dry gives no key")
}

func TestTheStoredOperatorIsReadBackOrCountsAsLost(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "operator.json")
	_, found, err := loadOperator(path)
	require.NoError(t, err)
	require.False(t, found)

	op := operator{clientID: uuid.New(), secret: "sk_live_x"}
	require.NoError(t, storeOperator(path, op))
	requirePrivate(t, path)
	got, found, err := loadOperator(path)
	require.NoError(t, err)
	require.True(t, found)
	require.Equal(t, op, got)

	for _, broken := range []string{"", "{", `{"clientId":"x"}`, `{"clientId":"` + uuid.NewString() + `"}`} {
		require.NoError(t, os.WriteFile(path, []byte(broken), 0o600))
		_, found, err = loadOperator(path)
		require.NoError(t, err)
		require.False(t, found, broken)
	}
	_, _, err = loadOperator(t.TempDir())
	require.Error(t, err, "a directory is neither there nor lost")
}

func TestALogIsBoundedAndShowsItsEnd(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "x.log")
	var console bytes.Buffer
	log, err := openLog(path, 100, &console)
	require.NoError(t, err)
	require.Empty(t, log.tail(3))
	for i := range 30 {
		_, err := log.Write([]byte(strings.Repeat(string(rune('a'+i%26)), 9) + "\n"))
		require.NoError(t, err)
	}
	require.Equal(t, []string{"bbbbbbbbb", "ccccccccc", "ddddddddd"}, log.tail(3))
	requirePrivate(t, path)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.LessOrEqual(t, info.Size(), int64(100))
	require.FileExists(t, path+".1")
	require.Equal(t, 300, console.Len(), "the console gets all of it")
	require.NoError(t, log.close())

	again, err := openLog(path, 100, nil)
	require.NoError(t, err)
	require.NotEmpty(t, again.tail(1), "a second run appends")
	require.NoError(t, again.close())
}

func TestAFailureShowsTheEndOfItsLog(t *testing.T) {
	t.Parallel()
	logs := newLogs(t.TempDir(), nil)
	require.Equal(t, os.ErrClosed, logs.explain("token", os.ErrClosed), "no log, nothing to add")
	file, err := logs.open("token")
	require.NoError(t, err)
	same, err := logs.open("token")
	require.NoError(t, err)
	require.Same(t, file, same)
	require.Equal(t, os.ErrClosed, logs.explain("token", os.ErrClosed))
	_, err = file.Write([]byte("it broke\n"))
	require.NoError(t, err)

	err = logs.explain("token", os.ErrClosed)
	require.ErrorIs(t, err, os.ErrClosed)
	require.ErrorContains(t, err, "it broke")
	require.ErrorContains(t, err, logs.path("token"))
	require.NoError(t, logs.close())
}

func TestServicesFileIsValidJSONForAnyPath(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), servicesFileName)
	require.NoError(t, writeServicesFile(path, handoff{InternalTokenFile: "/a \"b\"\n"}))
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	require.True(t, json.Valid(content))
}

func TestTheKeySettingsAreThoseOfTheRun(t *testing.T) {
	t.Parallel()
	dir := &dataDir{path: t.TempDir()}
	require.NoError(t, os.Mkdir(dir.join("secrets"), 0o700))
	_, err := KeySettings(dir.path)
	require.ErrorContains(t, err, "no `agentidp dev` runs on "+dir.path)

	environ := func(name string) (string, bool) {
		value, set := map[string]string{"TOKEN_KEY_PROPAGATION": "20s", "KEY_PROPAGATION": "30s"}[name]
		return value, set
	}
	s := &session{dir: dir, options: Options{Environ: environ}, layout: layout{services: map[string]serviceLayout{
		"token": {values: map[string]string{"DATABASE_URL": "postgres://x/y", "KEY_ENCRYPTION_KEY": "k", "REDIS_URL": "redis://z"}},
	}}}
	require.NoError(t, s.handOverKeySettings())
	requirePrivate(t, dir.join("secrets", keySettingsName))
	got, err := KeySettings(dir.path)
	require.NoError(t, err)
	require.Equal(t, map[string]string{"DATABASE_URL": "postgres://x/y", "KEY_ENCRYPTION_KEY": "k", "KEY_PROPAGATION": "20s"}, got)

	require.NoError(t, os.WriteFile(dir.join("secrets", keySettingsName), []byte("{"), 0o600))
	_, err = KeySettings(dir.path)
	require.ErrorContains(t, err, keySettingsName)
}
