package postgres

import (
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sentryagent/agentidp/pkg/paging"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

// countUpTo is how many events of a day that is not all in the time of a list are counted
// one by one. If there are more, their number is estimated from that of the day.
const countUpTo = 1000

const sqlCount = "-- name: event_count\nSELECT count(*) FROM (SELECT FROM audit.events WHERE "

// edge is a day that begins before a list does, or ends after it.
type edge struct {
	dayCount
	part  trail.Filter // the list on that day
	found int64        // up to one more than countUpTo
}

// edges are at most two days.
func (c counts) edges(filter trail.Filter) (edges []*edge) {
	for _, day := range c {
		if !day.within(filter) {
			edges = append(edges, &edge{dayCount: day, part: day.part(filter)})
		}
	}
	return edges
}

// count is the question that finds the events of the edge.
func (e *edge) count() question {
	where := matching(e.part)
	sql := sqlCount + where.sql() + sqlOrder + where.bind(" LIMIT %s", countUpTo+1) + ") newest"
	return question{sql, where.args, func(rows pgx.Rows) error {
		_, err := pgx.ForEachRow(rows, []any{&e.found}, func() error { return nil })
		return err
	}}
}

// total is how many match in all. Those of an edge that has too many are estimated as if the
// events of a day, as long as it has lasted, happened evenly.
func (c counts) total(filter trail.Filter, edges []*edge, now time.Time) (total paging.Total) {
	for _, day := range c {
		if day.within(filter) {
			total.Items += day.events
		}
	}
	for _, edge := range edges {
		if edge.found <= countUpTo {
			total.Items += edge.found
			continue
		}
		end := edge.end()
		if now.After(edge.day) {
			end = earlier(end, now)
		}
		share := earlier(end, *edge.part.To).Sub(*edge.part.From).Seconds() / end.Sub(edge.day).Seconds()
		total.Items += max(edge.found, int64(min(share, 1)*float64(edge.events)))
		total.Estimate = true
	}
	return total
}
