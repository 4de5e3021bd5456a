package testkit_test

import (
	"bytes"
	"context"
	"database/sql"
	"io/fs"
	"log/slog"
	"sync"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/migrations"
	"github.com/sentryagent/agentidp/pkg/testkit"
)

// These hold the module migrations against a real server; they stand here as that module must not
// depend on this one.

func TestMigrationsCanBeAppliedByManyAtOnceAndAgain(t *testing.T) {
	t.Parallel()
	for _, service := range migrations.Services() {
		t.Run(service, func(t *testing.T) {
			t.Parallel()
			ctx, db := context.Background(), testkit.Postgres(t, service)
			takeBack(t, service, db.OwnerURL) // the template has them applied
			var applied bytes.Buffer
			log := slog.New(slog.NewTextHandler(&applied, nil))
			var wg sync.WaitGroup
			errs := make([]error, 5)
			for i := range errs {
				wg.Go(func() { errs[i] = migrations.Apply(ctx, service, db.OwnerURL, log) })
			}
			wg.Wait()
			for _, err := range errs {
				require.NoError(t, err)
			}
			files, err := migrations.Files(service)
			require.NoError(t, err)
			names, err := fs.Glob(files, "*.sql")
			require.NoError(t, err)
			require.Equal(t, len(names), bytes.Count(applied.Bytes(), []byte("migration applied")))
			require.NoError(t, migrations.Apply(ctx, service, db.OwnerURL, log))
			require.Contains(t, applied.String(), "up to date")
		})
	}
}

func TestMigrationsAreForTheOwnerOnly(t *testing.T) {
	t.Parallel()
	db := testkit.Postgres(t, "registry")
	takeBack(t, "registry", db.OwnerURL)
	require.ErrorContains(t, migrations.Apply(context.Background(), "registry", db.AppURL, nil), "42501")
}

// takeBack runs every Down, which so is tested too, and requires that nothing is left.
func takeBack(t *testing.T, service, ownerURL string) {
	t.Helper()
	ctx := context.Background()
	db, err := sql.Open("pgx", ownerURL)
	require.NoError(t, err)
	defer func() { _ = db.Close() }()
	files, err := migrations.Files(service)
	require.NoError(t, err)
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files, goose.WithTableName(service+".goose_db_version"), goose.WithDisableGlobalRegistry(true))
	require.NoError(t, err)
	_, err = provider.DownTo(ctx, 0)
	require.NoError(t, err)
	var left int
	require.NoError(t, db.QueryRowContext(ctx, "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'v', 'm') AND c.relname <> 'goose_db_version'", service).Scan(&left))
	require.Zero(t, left, "a Down leaves tables behind")
	_, err = db.ExecContext(ctx, "DROP TABLE "+service+".goose_db_version")
	require.NoError(t, err)
}
