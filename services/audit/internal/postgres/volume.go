package postgres

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sentryagent/agentidp/pkg/pgdb"
)

// volumeFor is how long the numbers of events per day are believed.
const volumeFor = 30 * time.Second

// sqlVolume estimates each day as the planner does: by the density of rows when
// they were counted last, and the size of the table now. A day that was never
// counted has rows of a usual length.
const sqlVolume = `-- name: event_volume
SELECT ` + sqlDay + `,
  (pg_relation_size(c.oid) / 8192.0 * CASE WHEN c.reltuples > 0 AND c.relpages > 0 THEN c.reltuples / c.relpages ELSE 12 END)::bigint
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'audit.events'::regclass AND ` + sqlDay + ` IS NOT NULL AND pg_relation_size(c.oid) > 0`

// volume is about how many events there are of each day, by the first moment of it.
type volume map[time.Time]int64

// volumes remembers the last volume. Its zero value has none.
type volumes struct {
	clock func() time.Time

	mutex sync.Mutex
	last  volume
	at    time.Time
}

// read is the volume of at most volumeFor ago.
func (v *volumes) read(ctx context.Context, db *pgdb.DB) (volume, error) {
	v.mutex.Lock()
	defer v.mutex.Unlock()
	if v.last != nil && v.clock().Sub(v.at) < volumeFor {
		return v.last, nil
	}
	rows, err := db.Query(ctx, sqlVolume)
	if err != nil {
		return nil, err
	}
	found := volume{}
	var day time.Time
	var events int64
	if _, err := pgx.ForEachRow(rows, []any{&day, &events}, func() error {
		found[day.UTC()] = events
		return nil
	}); err != nil {
		return nil, err
	}
	v.last, v.at = found, v.clock()
	return found, nil
}

// between is about how many events happened from one moment to another, if those of
// a day happened evenly. The last day there is ends with until.
func (v volume) between(from, until time.Time) int64 {
	sum := 0.0
	for day, events := range v {
		begin, end := day, day.Add(24*time.Hour)
		if begin.Before(until) && end.After(until) && v.last(day) {
			end = until
		}
		share := earlier(end, until).Sub(later(begin, from)).Seconds() / end.Sub(begin).Seconds()
		sum += max(share, 0) * float64(events)
	}
	return int64(sum)
}

// last tells whether no day after this one has events.
func (v volume) last(day time.Time) bool {
	for other, events := range v {
		if other.After(day) && events > 0 {
			return false
		}
	}
	return true
}

// extrapolate takes it that of the events before oldest as large a part matches as
// of those since, of which counted do.
func (v volume) extrapolate(counted int64, from, oldest, until time.Time) int64 {
	since, all := float64(v.between(oldest, until)), float64(v.between(from, until))
	if since < 1 || all < since { // nothing is known of these days: by the time that passed, then
		since, all = max(until.Sub(oldest).Seconds(), 1), until.Sub(from).Seconds()
	}
	return max(int64(float64(counted)*all/since), counted)
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
