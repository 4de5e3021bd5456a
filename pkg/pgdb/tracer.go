package pgdb

import (
	"context"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sentryagent/agentidp/pkg/telemetry"
)

const (
	namePrefix = "-- name: "
	unnamed    = "unnamed"
)

// queryTimer feeds the duration of every statement into agentidp_db_query_duration_seconds under
// the name that the statement's first line gives it, so that the label never carries SQL. One of a
// batch is timed from when the answers to those before it were read.
type queryTimer struct{ metrics *telemetry.Metrics }

var (
	_ pgx.QueryTracer = (*queryTimer)(nil)
	_ pgx.BatchTracer = (*queryTimer)(nil)
)

type startedKey struct{}

type started struct {
	operation string
	at        time.Time
}

func newQueryTimer(tel *telemetry.Telemetry) *queryTimer {
	return &queryTimer{metrics: tel.Metrics}
}

// TraceQueryStart notes when the statement began.
func (q *queryTimer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	return context.WithValue(ctx, startedKey{}, started{operation: operation(data.SQL), at: time.Now()})
}

// TraceQueryEnd observes how long it took, whatever came out.
func (q *queryTimer) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryEndData) {
	if s, ok := ctx.Value(startedKey{}).(started); ok {
		q.metrics.DBQuery.WithLabelValues(s.operation).Observe(time.Since(s.at).Seconds())
	}
}

// TraceBatchStart has nothing to note: pgx does.
func (q *queryTimer) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return ctx
}

// TraceBatchQuery observes how long one statement of a batch took, whatever came out.
func (q *queryTimer) TraceBatchQuery(_ context.Context, _ *pgx.Conn, data pgx.TraceBatchQueryData) {
	q.metrics.DBQuery.WithLabelValues(operation(data.SQL)).Observe(time.Since(data.ReadStartTime).Seconds())
}

// TraceBatchEnd has nothing to add to what was observed of each statement.
func (q *queryTimer) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}

func operation(sql string) string {
	rest, ok := strings.CutPrefix(sql, namePrefix)
	if !ok {
		switch sql {
		case "begin", "commit", "rollback":
			return sql
		}
		return unnamed
	}
	name, _, _ := strings.Cut(rest, "\n")
	if name = strings.TrimSpace(name); name == "" {
		return unnamed
	}
	return name
}
