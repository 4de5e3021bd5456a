package postgres

import (
	"context"
	"time"

	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/services/audit/internal/figures"
)

var _ figures.Store = (*Store)(nil)

const sqlFigures = `-- name: figures
SELECT t.size, t.updated_at, (SELECT count(*) FROM audit.dead_letters), (SELECT count(*) FROM (` + sqlDaysBefore + `) AS expired)
FROM audit.tree t`

// Figures counts what there is, and days before oldest as expired.
func (s *Store) Figures(ctx context.Context, oldest time.Time) (figures.Figures, error) {
	var found figures.Figures
	var updatedAt time.Time
	err := s.db.QueryRow(ctx, sqlFigures, oldest.Format(time.DateOnly)).
		Scan(&found.Leaves, &updatedAt, &found.DeadLetters, &found.ExpiredDays)
	if found.Leaves > 0 {
		found.GrewAt = updatedAt
	}
	return found, pgdb.Fault(err)
}
