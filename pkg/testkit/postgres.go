package testkit

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sentryagent/agentidp/migrations"
	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/devservers"
	"github.com/sentryagent/agentidp/pkg/idle"
	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/pkg/telemetry"
)

const (
	databaseTimeout = 2 * time.Minute
	// templateLock makes one test process build a template while the others wait for it.
	templateLock = 0x746573746b6974 // "testkit"
)

// Database is a fresh database of one test. AppURL and OwnerURL come as <service>_app and
// <service>_owner, of the first service when the test asked for all; For gives those of another.
type Database struct {
	AppURL, OwnerURL, AdminURL string
}

// For gives the URLs of another service's roles in the same database.
func (d Database) For(service string) Database {
	return Database{
		AppURL:   withUser(d.AdminURL, service+"_app"),
		OwnerURL: withUser(d.AdminURL, service+"_owner"),
		AdminURL: d.AdminURL,
	}
}

// Stop makes the database lose all its connections and refuse new ones, for the rest of the test.
func (d Database) Stop(tb testing.TB) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), databaseTimeout)
	defer cancel()
	cfg, err := pgx.ParseConfig(d.AdminURL)
	if err != nil {
		tb.Fatalf("stop the test database: %v", err)
	}
	server := withDatabase(d.AdminURL, "postgres")
	err = execAdmin(ctx, server, "ALTER DATABASE "+pgx.Identifier{cfg.Database}.Sanitize()+" ALLOW_CONNECTIONS false")
	if err == nil {
		err = execAdmin(ctx, server, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", cfg.Database)
	}
	if err != nil {
		tb.Fatalf("stop the test database: %v", err)
	}
}

// Postgres makes a database with the roles, schema and migrations of a service ("" means of all
// services), and drops it at the end of the test. The roles belong to the whole server: where
// TEST_DATABASE_URL names one, their passwords become TEST_DB_PASSWORD (or a fixed one).
func Postgres(tb testing.TB, service string) Database {
	tb.Helper()
	admin := postgresServer.get(tb)
	ctx, cancel := context.WithTimeout(context.Background(), databaseTimeout)
	defer cancel()
	name, err := cloneTemplate(ctx, admin, service)
	if err != nil {
		tb.Fatalf("make a test database: %v", err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), databaseTimeout)
		defer cancel()
		if err := execAdmin(ctx, admin, "DROP DATABASE IF EXISTS "+pgx.Identifier{name}.Sanitize()+" WITH (FORCE)"); err != nil {
			tb.Logf("drop the test database: %v", err)
		}
	})
	if service == "" {
		service = migrations.Services()[0]
	}
	return Database{AdminURL: withDatabase(admin, name)}.For(service)
}

// DB is a pool on a fresh database, as the role that the service runs as.
func DB(tb testing.TB, service string) *pgdb.DB {
	tb.Helper()
	return Open(tb, Postgres(tb, service).AppURL)
}

// Open makes a pool that is closed at the end of the test.
func Open(tb testing.TB, databaseURL string) *pgdb.DB {
	tb.Helper()
	db, err := pgdb.Open(context.Background(), pgdb.Config{URL: config.Secret(databaseURL), MaxConns: 10}, telemetry.Discard("test"))
	if err != nil {
		tb.Fatalf("open the test database: %v", err)
	}
	tb.Cleanup(db.Close)
	return db
}

// cloneTemplate makes a database like the template of a service, which it builds if no test before,
// of this process or another, has done so for the same migrations.
func cloneTemplate(ctx context.Context, admin, service string) (string, error) {
	services := migrations.Services()
	if service != "" {
		services = []string{service}
	}
	template, err := templateName(services)
	if err != nil {
		return "", err
	}
	conn, err := pgx.Connect(ctx, admin)
	if err != nil {
		return "", fmt.Errorf("connect to the test server: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	// Held for the clone too: it fails while anybody is connected to the template.
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock($1)", int64(templateLock)); err != nil {
		return "", fmt.Errorf("lock the template: %w", err)
	}
	if err := ensureTemplate(ctx, conn, admin, template, services); err != nil {
		return "", err
	}
	name := "agentidp_test_" + randomHex(8)
	return name, retryInUse(ctx, func() error {
		_, err := conn.Exec(ctx, "CREATE DATABASE "+name+" TEMPLATE "+template)
		return err
	})
}

// ensureTemplate builds under another name and renames, so that what has the name is complete.
func ensureTemplate(ctx context.Context, conn *pgx.Conn, admin, template string, services []string) error {
	var exists bool
	if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", template).Scan(&exists); err != nil {
		return fmt.Errorf("look for the template: %w", err)
	}
	if exists {
		return nil
	}
	building := template + "_new"
	for _, sql := range []string{"DROP DATABASE IF EXISTS " + building + " WITH (FORCE)", "CREATE DATABASE " + building + " TEMPLATE template0"} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("build the template: %w", err)
		}
	}
	buildingURL := withDatabase(admin, building)
	if err := devservers.Provision(ctx, buildingURL, services, rolePassword); err != nil {
		return err
	}
	for _, s := range services {
		if err := migrations.Apply(ctx, s, withUser(buildingURL, s+"_owner"), nil); err != nil {
			return err
		}
	}
	return retryInUse(ctx, func() error {
		_, err := conn.Exec(ctx, "ALTER DATABASE "+building+" RENAME TO "+template)
		return err
	})
}

// templateName changes with the content of the migrations, so that test processes of different
// checkouts can share a server.
func templateName(services []string) (string, error) {
	sum := sha256.New()
	for _, service := range services {
		files, err := migrations.Files(service)
		if err != nil {
			return "", err
		}
		names, err := fs.Glob(files, "*.sql")
		if err != nil {
			return "", err
		}
		slices.Sort(names)
		for _, name := range names {
			content, err := fs.ReadFile(files, name)
			if err != nil {
				return "", err
			}
			_, _ = fmt.Fprintf(sum, "%s/%s %d\n%s\n", service, name, len(content), content)
		}
	}
	return "agentidp_template_" + hex.EncodeToString(sum.Sum(nil)[:10]), nil
}

// retryInUse tries again while a session that has just been closed still counts as connected.
func retryInUse(ctx context.Context, do func() error) error {
	const objectInUse = "55006"
	for wait := 20 * time.Millisecond; ; wait *= 2 {
		err := do()
		var pg *pgconn.PgError
		if !errors.As(err, &pg) || pg.Code != objectInUse || wait > 5*time.Second {
			return err
		}
		if idle.For(ctx, wait) != nil {
			return err
		}
	}
}

func execAdmin(ctx context.Context, admin, sql string, args ...any) error {
	conn, err := pgx.Connect(ctx, admin)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	_, err = conn.Exec(ctx, sql, args...)
	return err
}

// rolePassword is the same for every role and every test process of one server.
func rolePassword(string) string {
	if p := os.Getenv("TEST_DB_PASSWORD"); p != "" {
		return p
	}
	return "agentidp-test"
}

func withDatabase(raw, name string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return raw
	}
	u.Path = "/" + name
	return u.String()
}

func withUser(raw, role string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return raw
	}
	u.User = url.UserPassword(role, rolePassword(role))
	return u.String()
}

func randomHex(bytes int) string {
	b := make([]byte, bytes)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	return hex.EncodeToString(b)
}

// AwaitLock waits until a statement of the database's own user waits for a lock there.
func AwaitLock(tb testing.TB, db *pgdb.DB) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), startTimeout)
	defer cancel()
	const sql = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')"
	for waits := false; !waits; _ = idle.For(ctx, 10*time.Millisecond) {
		if err := db.QueryRow(ctx, sql).Scan(&waits); err != nil {
			tb.Fatalf("nobody waits for a lock: %v", err)
		}
	}
}
