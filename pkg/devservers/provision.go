package devservers

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// provisionLock is the key of the advisory lock that makes one provisioning wait for the other.
// Advisory locks are per database, so it covers those of one admin URL.
const provisionLock = 0x6167656e74696470 // "agentidp"

// CreateDatabase makes a database unless it exists. adminURL is of a role that may.
func CreateDatabase(ctx context.Context, adminURL, name string) error {
	return withAdmin(ctx, adminURL, func(conn *pgx.Conn) error {
		var exists bool
		err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", name).Scan(&exists)
		if err != nil {
			return fmt.Errorf("look for the database %s: %w", name, err)
		}
		if exists {
			return nil
		}
		if _, err := conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize()); err != nil {
			return fmt.Errorf("create the database %s: %w", name, err)
		}
		return nil
	})
}

// Provision makes, in the database of adminURL, a schema per service that <service>_owner owns and
// <service>_app may use, and makes or updates those two roles with the passwords that the func
// gives. Nobody else gets at the schema, and nobody may create anything in the schema public. The
// tables and what <service>_app may do with them come from the migrations. It may run at any time
// again.
func Provision(ctx context.Context, adminURL string, services []string, password func(role string) string) error {
	return withAdmin(ctx, adminURL, func(conn *pgx.Conn) error {
		var database string
		if err := conn.QueryRow(ctx, "SELECT current_database()").Scan(&database); err != nil {
			return fmt.Errorf("provision: %w", err)
		}
		for _, sql := range provisioning(database, services, password) {
			if _, err := conn.Exec(ctx, sql); err != nil {
				return fmt.Errorf("provision: %w", err) // Postgres' own errors do not repeat the statement
			}
		}
		return nil
	})
}

// provisioning are the statements of Provision; deploy/k8s/components/in-cluster/postgres-init.sh has the same.
func provisioning(database string, services []string, password func(role string) string) []string {
	perService := make([][]string, len(services))
	for i, service := range services {
		perService[i] = provisionService(database, service, password)
	}
	return append([]string{
		"REVOKE ALL ON DATABASE " + pgx.Identifier{database}.Sanitize() + " FROM PUBLIC",
		"REVOKE ALL ON SCHEMA public FROM PUBLIC",
	}, slices.Concat(perService...)...)
}

func provisionService(database, service string, password func(role string) string) []string {
	owner, app := service+"_owner", service+"_app"
	quoted := func(name string) string { return pgx.Identifier{name}.Sanitize() }
	var statements []string
	for _, role := range []string{owner, app} {
		statements = append(statements,
			"DO $do$ BEGIN CREATE ROLE "+quoted(role)+"; EXCEPTION WHEN duplicate_object THEN NULL; END $do$",
			"ALTER ROLE "+quoted(role)+" LOGIN PASSWORD "+literal(password(role)),
			"GRANT CONNECT ON DATABASE "+quoted(database)+" TO "+quoted(role),
		)
	}
	return append(statements,
		// A managed Postgres has no superuser: the admin must be a member of the owner to give it a schema.
		"GRANT "+quoted(owner)+" TO CURRENT_USER",
		"CREATE SCHEMA IF NOT EXISTS "+quoted(service)+" AUTHORIZATION "+quoted(owner),
		"REVOKE ALL ON SCHEMA "+quoted(service)+" FROM PUBLIC",
		"GRANT USAGE ON SCHEMA "+quoted(service)+" TO "+quoted(app),
	)
}

// literal quotes text for SQL where no parameter can stand (standard_conforming_strings is on).
func literal(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }

// withAdmin runs fn on one connection that holds provisionLock.
func withAdmin(ctx context.Context, adminURL string, fn func(*pgx.Conn) error) error {
	cfg, err := pgx.ParseConfig(adminURL)
	if err != nil {
		return fmt.Errorf("admin URL of postgres is not valid")
	}
	// CREATE DATABASE and the like run as they stand, without a prepared statement.
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return fmt.Errorf("connect as admin: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // gives the lock back too
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock($1)", int64(provisionLock)); err != nil {
		return fmt.Errorf("lock for provisioning: %w", err)
	}
	return fn(conn)
}
