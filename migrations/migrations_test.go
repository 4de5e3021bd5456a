package migrations

import (
	"io/fs"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
)

func TestEveryMigrationIsNumberedWithoutGapsAndCanBeTakenBack(t *testing.T) {
	t.Parallel()
	name := regexp.MustCompile(`^(\d{5})_[a-z0-9_]+\.sql$`)
	for _, service := range Services() {
		files, err := Files(service)
		require.NoError(t, err)
		entries, err := fs.ReadDir(files, ".")
		require.NoError(t, err)
		require.NotEmpty(t, entries, service)
		require.True(t, strings.HasPrefix(entries[0].Name(), "00001_"), service)
		for i, entry := range entries {
			require.Regexp(t, name, entry.Name())
			require.Contains(t, entry.Name(), "0000", "more than nine migrations: widen this check")
			require.Equal(t, byte('1'+i), entry.Name()[4], "%s/%s leaves a gap", service, entry.Name())
			sql, err := fs.ReadFile(files, entry.Name())
			require.NoError(t, err)
			require.Contains(t, string(sql), "-- +goose Up", entry.Name())
			require.Contains(t, string(sql), "-- +goose Down", entry.Name())
		}
	}
}

func TestTheNeededVersionIsTheLastThatIsNotAContraction(t *testing.T) {
	t.Parallel()
	file := func(text string) *fstest.MapFile {
		return &fstest.MapFile{Data: []byte("-- What it does.\n" + text + "\n-- +goose Up\n")}
	}
	const contraction = "-- phase: contract\n"
	for _, tt := range []struct {
		files fstest.MapFS
		want  int64
	}{
		{fstest.MapFS{}, 0},
		{fstest.MapFS{"00001_a.sql": file("")}, 1},
		{fstest.MapFS{"00001_a.sql": file(""), "00002_b.sql": file("-- phase: contracted"), "00003_c.sql": file(contraction)}, 2},
		{fstest.MapFS{"00001_a.sql": file(""), "00002_b.sql": file(contraction), "00003_c.sql": file("")}, 3},
		{fstest.MapFS{"00009_a.sql": file(""), "00010_b.sql": file("")}, 10},
	} {
		got, err := needed(tt.files)
		require.NoError(t, err)
		require.Equal(t, tt.want, got)
	}
	for _, service := range Services() {
		got, err := Needed(service)
		require.NoError(t, err)
		require.Positive(t, got, service)
	}
	_, err := Needed("billing")
	require.ErrorContains(t, err, "billing")
}

// each hands over every migration of every service.
func each(t *testing.T, see func(service, name, sql string)) {
	t.Helper()
	for _, service := range Services() {
		files, err := Files(service)
		require.NoError(t, err)
		names, err := fs.Glob(files, "*.sql")
		require.NoError(t, err)
		for _, name := range names {
			sql, err := fs.ReadFile(files, name)
			require.NoError(t, err)
			see(service, name, string(sql))
		}
	}
}

func TestAMigrationNamesNoSchemaButItsOwn(t *testing.T) {
	t.Parallel()
	each(t, func(service, name, sql string) {
		for _, other := range Services() {
			if other != service {
				foreign := regexp.MustCompile(`(?mi)^[^-\n]*\b(table|index|on|from|into|update|references|schema|to)\s+` + other + `[._]`)
				require.False(t, foreign.MatchString(sql), "%s/%s reaches into %s", service, name, other)
			}
		}
	})
}

// An index that was cut off has its name, is passed over by IF NOT EXISTS, and serves nothing.
func TestAnIndexIsMadeAnewWhereItWasCutOff(t *testing.T) {
	t.Parallel()
	making := regexp.MustCompile(`CREATE (?:UNIQUE )?INDEX CONCURRENTLY (\w+) ON (\w+)\.`)
	made := 0
	each(t, func(_, name, sql string) {
		require.NotContains(t, sql, "INDEX CONCURRENTLY IF NOT EXISTS", name)
		for _, found := range making.FindAllStringSubmatchIndex(sql, -1) {
			made++
			index := sql[found[4]:found[5]] + "." + sql[found[2]:found[3]]
			require.True(t, strings.HasSuffix(strings.TrimSpace(sql[:found[0]]), "DROP INDEX CONCURRENTLY IF EXISTS "+index+";"), name)
		}
	})
	require.NotZero(t, made)
}

// The relays look for rows in these two ways; a backlog without an index for one takes ever longer.
func TestEveryOutboxHasTheIndexesOfItsRelay(t *testing.T) {
	t.Parallel()
	outboxes := 0
	for _, service := range Services() {
		files, err := Files(service)
		require.NoError(t, err)
		sql, err := fs.ReadFile(files, "00001_init.sql")
		require.NoError(t, err)
		if !strings.Contains(string(sql), "CREATE TABLE "+service+".outbox") {
			continue
		}
		outboxes++
		require.Contains(t, string(sql), " ON "+service+".outbox (position);")
		require.Contains(t, string(sql), " ON "+service+".outbox (subject, position) WHERE subject LIKE 'lifecycle.%';")
	}
	require.Equal(t, 3, outboxes)
}

func TestFilesAndApplyKnowOnlyTheServices(t *testing.T) {
	t.Parallel()
	_, err := Files("billing")
	require.ErrorContains(t, err, "billing")
	require.Error(t, Apply(t.Context(), "billing", "postgres://127.0.0.1:1/x", nil))
}

func TestApplyRefusesABadURLWithoutRepeatingIt(t *testing.T) {
	t.Parallel()
	err := Apply(t.Context(), "registry", "postgres://user:hunter2@host:port/db", nil)
	require.Error(t, err)
	require.NotContains(t, err.Error(), "hunter2")
}

func TestEverySchemaHasALockOfItsOwn(t *testing.T) {
	t.Parallel()
	seen := map[int64]string{}
	for _, service := range Services() {
		id := lockID(service)
		require.Empty(t, seen[id], service)
		require.Equal(t, id, lockID(service))
		seen[id] = service
	}
}
