package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sentryagent/agentidp/migrations"
	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/pkg/telemetry"
)

const (
	// askEvery is the pause between two looks at a schema that is not there yet, and askTimeout how long one may take.
	askEvery   = 500 * time.Millisecond
	askTimeout = 2 * time.Second
)

// schema knows whether the schema of a service is the one that its release needs. It looks until it is, and never again:
// a schema does not grow older, and what happens to the database later is not for it to say.
type schema struct {
	service string
	needed  int64
	db      *pgdb.DB
	log     *slog.Logger
	version prometheus.Gauge

	there chan struct{} // closed once the schema is what is needed
	found sync.Once
}

func newSchema(service string, db *pgdb.DB, tel *telemetry.Telemetry) (*schema, error) {
	needed, err := migrations.Needed(service)
	if err != nil {
		return nil, err
	}
	s := &schema{service: service, needed: needed, db: db, log: tel.Log, there: make(chan struct{})}
	return s, s.register(tel.Metrics.Registry)
}

// register adds agentidp_schema_version and agentidp_schema_version_needed.
func (s *schema) register(metrics prometheus.Registerer) error {
	s.version = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "agentidp_schema_version", Help: "Version of the service's schema when it was last looked at, 0 for one that it cannot read.",
	})
	needed := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "agentidp_schema_version_needed", Help: "Version of its schema that this release of the service needs.",
	})
	needed.Set(float64(s.needed))
	return errors.Join(metrics.Register(s.version), metrics.Register(needed))
}

// Ready is nil once the schema was seen at the version that is needed, or a newer one. Else its error says what was found,
// in details that may be shown, or it is that of a database which does not answer.
func (s *schema) Ready(ctx context.Context) error {
	select {
	case <-s.there:
		return nil
	default:
	}
	var version int64
	err := s.db.QueryRow(ctx, migrations.VersionQuery(s.service)).Scan(&version)
	var refused *pgconn.PgError
	if err == nil {
		s.version.Set(float64(version))
	}
	switch {
	case errors.As(err, &refused) && tooOld(refused.Code):
		return s.behind(fmt.Sprintf("the schema %s is at no version that this service could read", s.service), err)
	case err != nil:
		return pgdb.Fault(err)
	case version < s.needed:
		return s.behind(fmt.Sprintf("the schema %s is at version %d", s.service, version), nil)
	}
	s.found.Do(func() {
		s.log.InfoContext(ctx, "the schema is there", slog.Int64("version", version), slog.Int64("needed", s.needed))
		close(s.there)
	})
	return nil
}

func (s *schema) behind(found string, cause error) error {
	reason := fmt.Sprintf("%s, and version %d is needed: run %s migrate", found, s.needed, s.service)
	return apperr.Unavailable(errors.Join(errors.New(reason), cause)).With(map[string]any{"reason": reason})
}

// tooOld tells the SQLSTATEs of a schema that was never migrated, is not there at all, or is from before its service could
// read the version of it.
func tooOld(code string) bool {
	switch code {
	case "42P01", // undefined table
		"3F000", // no such schema
		"42501": // insufficient privilege
		return true
	}
	return false
}

// wait looks until the schema is there, or ctx ends; it returns nil.
func (s *schema) wait(ctx context.Context) error {
	said := ""
	ticker := time.NewTicker(askEvery)
	defer ticker.Stop()
	for {
		asked, cancel := context.WithTimeout(ctx, askTimeout)
		err := s.Ready(asked)
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() == nil && err.Error() != said {
			said = err.Error()
			s.log.WarnContext(ctx, "waiting for the schema", slog.Any("error", err))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.there:
			return nil
		case <-ticker.C:
		}
	}
}
