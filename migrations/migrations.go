// Package migrations holds the SQL of all schemas, one folder per service, and applies it. Each
// service applies its own folder only, as the role that owns its schema; no service reads or writes
// another's.
package migrations

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"log/slog"
	"regexp"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

//go:embed registry/*.sql credentials/*.sql token/*.sql audit/*.sql
var files embed.FS

// Services lists the services that have a schema; each schema is named like its service.
func Services() []string { return []string{"registry", "credentials", "token", "audit"} }

// Files are the migrations of one service, NNNNN_name.sql at the root.
func Files(service string) (fs.FS, error) {
	if !slices.Contains(Services(), service) {
		return nil, fmt.Errorf("no migrations for a service %q", service)
	}
	return fs.Sub(files, service)
}

// contract marks a migration that takes away what neither this release nor the one before uses: replicas of both run while
// it is applied, and this release works before that as well.
var contract = regexp.MustCompile(`(?m)^-- phase: contract$`)

// Needed is the version of its schema that this release of a service needs: the highest migration that is not marked
// with the line "-- phase: contract". A schema that is newer is fine, as a migration never breaks the release before.
func Needed(service string) (int64, error) {
	source, err := Files(service)
	if err != nil {
		return 0, err
	}
	return needed(source)
}

func needed(source fs.FS) (int64, error) {
	names, err := fs.Glob(source, "*.sql") // in order
	if err != nil {
		return 0, err
	}
	for _, name := range slices.Backward(names) {
		content, err := fs.ReadFile(source, name)
		if err != nil {
			return 0, err
		}
		if contract.Match(content) {
			continue
		}
		return goose.NumericComponent(name)
	}
	return 0, nil
}

// VersionQuery asks which version a schema is at, 0 for one that was never migrated. The service's own role may ask from
// the migration on that lets it; before, and where there is no such schema, Postgres refuses.
func VersionQuery(service string) string {
	return "-- name: schema_version\nSELECT coalesce(max(version_id), 0) FROM " + versionTable(service) + " WHERE is_applied"
}

func versionTable(service string) string { return service + ".goose_db_version" }

// Apply brings the schema of a service up to date. ownerURL is of the role that owns the schema; no
// other role is needed. Replicas may do so at the same time: an advisory lock lets one go first.
// What was applied stands in <service>.goose_db_version. A migration that fails leaves nothing of
// itself behind, or what it begins by clearing away (NO TRANSACTION), and those before it stay. log may be nil.
func Apply(ctx context.Context, service, ownerURL string, log *slog.Logger) error {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	db, err := open(ownerURL)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	provider, err := newProvider(service, db)
	if err != nil {
		return err
	}
	results, err := provider.Up(ctx)
	for _, r := range results {
		log.InfoContext(ctx, "migration applied", slog.String("schema", service), slog.String("migration", r.Source.Path), slog.String("took", r.Duration.String()))
	}
	if err != nil {
		return fmt.Errorf("migrate schema %s: %w", service, err)
	}
	if len(results) == 0 {
		log.InfoContext(ctx, "schema is up to date", slog.String("schema", service))
	}
	return nil
}

func open(ownerURL string) (*sql.DB, error) {
	cfg, err := pgx.ParseConfig(ownerURL)
	if err != nil {
		return nil, errors.New("the URL to migrate with is not a valid Postgres URL")
	}
	return stdlib.OpenDB(*cfg), nil
}

func newProvider(service string, db *sql.DB) (*goose.Provider, error) {
	source, err := Files(service)
	if err != nil {
		return nil, err
	}
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockID(lockID(service)), lock.WithLockTimeout(1, 120))
	if err != nil {
		return nil, fmt.Errorf("lock for migrations: %w", err)
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, source,
		goose.WithTableName(versionTable(service)),
		goose.WithSessionLocker(locker),
		goose.WithDisableGlobalRegistry(true),
	)
	if err != nil {
		return nil, fmt.Errorf("read migrations of %s: %w", service, err)
	}
	return provider, nil
}

// lockID is a lock of each schema's own, so that services migrate side by side.
func lockID(service string) int64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte("agentidp/migrations/" + service))
	return int64(h.Sum64()) // #nosec G115 -- any 64 bits do
}
