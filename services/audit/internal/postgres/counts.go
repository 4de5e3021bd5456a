package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sentryagent/agentidp/pkg/paging"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

const (
	sqlDayCounts = "-- name: event_day_counts\nSELECT day, sum(events)::bigint FROM audit.day_counts WHERE "
	sqlByDay     = " GROUP BY day ORDER BY day DESC"
)

// dayCount is how many events of a day match a filter, going by all of the day.
type dayCount struct {
	day    time.Time
	events int64
}

// within tells whether all of the day lies in the time of a filter.
func (c dayCount) within(filter trail.Filter) bool {
	return !c.day.Before(*filter.From) && (filter.To == nil || !c.end().After(*filter.To))
}

// end is the last moment of the day.
func (c dayCount) end() time.Time { return c.day.AddDate(0, 0, 1).Add(-time.Microsecond) }

// part is the filter without what lies outside of the day.
func (c dayCount) part(filter trail.Filter) trail.Filter {
	from, to := later(*filter.From, c.day), c.end()
	if filter.To != nil {
		to = earlier(to, *filter.To)
	}
	filter.From, filter.To = &from, &to
	return filter
}

// counts are the days on which events match a filter, the newest first.
type counts []dayCount

func (s *Store) counts(ctx context.Context, filter trail.Filter) (counts, error) {
	sql, args := counting(filter)
	rows, err := s.db.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (c dayCount, err error) {
		return c, row.Scan(&c.day, &c.events)
	})
}

// counting is the statement of counts and its arguments. What an actor did to itself is
// counted with the agent only.
func counting(filter trail.Filter) (sql string, args []any) {
	where := &conditions{}
	where.add("day >= %s", trail.Day(*filter.From))
	if filter.To != nil {
		where.add("day <= %s", trail.Day(*filter.To))
	}
	switch {
	case filter.AgentID != nil:
		where.add("agent_id = %s", *filter.AgentID)
		if filter.ActorID != nil {
			where.add("actor_id = %s", *filter.ActorID)
		}
	case filter.ActorID != nil:
		where.add("actor_id = %s AND (agent_id = %s OR agent_id IS NULL)", *filter.ActorID, *filter.ActorID)
	default:
		where.add("agent_id IS NULL AND actor_id IS NULL")
	}
	if filter.Action != nil {
		where.add("action = %s", *filter.Action)
	}
	if filter.Outcome != nil {
		where.add("outcome = %s", *filter.Outcome)
	}
	return sqlDayCounts + where.sql() + sqlByDay, where.args
}

// reach is what of the list has to be looked through for a page: the fewest of the newest
// days, which no day that lies before the page is among. Its filter has a beginning and an
// end. It is false where no event is in the page.
func (c counts) reach(filter trail.Filter, page paging.Page) (trail.Filter, paging.Page, bool) {
	for len(c) > 0 && c[0].within(filter) && c[0].events <= page.Offset {
		page.Offset -= c[0].events
		c = c[1:]
	}
	if len(c) == 0 {
		return trail.Filter{}, paging.Page{}, false
	}
	// Of a day that is not all within, nobody knows whether it has any; nor of the day of a
	// cursor, even of its last moment, what is not shown yet.
	newest, oldest, want := c[0], c[0], page.Offset+int64(page.Limit)+1
	for _, oldest = range c {
		if oldest.within(filter) && (page.After == nil || oldest != newest) {
			want -= oldest.events
		}
		if want <= 0 {
			break
		}
	}
	from, to := oldest.part(filter).From, newest.part(filter).To
	filter.From, filter.To = from, to
	return filter, page, true
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
