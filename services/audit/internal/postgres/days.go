package postgres

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

// daysAhead is how many days after today have their partition already, so that
// midnight finds nothing to do.
const daysAhead = 7

// days remembers which days have a partition. Its zero value knows none.
type days struct {
	mutex sync.Mutex
	made  map[time.Time]bool
}

func (d *days) has(at time.Time) bool {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	return d.made[at]
}

func (d *days) add(at time.Time) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	if d.made == nil {
		d.made = map[time.Time]bool{}
	}
	d.made[at] = true
}

func (d *days) forget() {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	d.made = nil
}

const sqlEnsure = `-- name: partition_ensure
SELECT audit.ensure_partition($1::date)`

// prepareDays makes the partitions that the events need, which as a rule are there:
// an event that is late by days, or early, makes its own. It does so outside of the
// transaction that stores, which would hold all others up. Events whose day cannot
// have a partition are rejected.
func (s *Sequencer) prepareDays(ctx context.Context, work []trail.Delivery) error {
	for i := range work {
		if work[i].Reject != "" {
			continue
		}
		at := trail.Day(work[i].Event.Timestamp)
		if s.days.has(at) {
			continue
		}
		err := s.ensure(ctx, at)
		if reason, is := faultOfRow(err); is {
			work[i].Reject = reason
		} else if err != nil {
			return err
		}
	}
	return nil
}

func (s *Sequencer) ensure(ctx context.Context, at time.Time) error {
	if _, err := s.DB.Exec(ctx, sqlEnsure, at.Format(time.DateOnly)); err != nil {
		return fmt.Errorf("make the partition of a day: %w", err)
	}
	s.days.add(at)
	return nil
}

// PrepareAhead makes the partitions of today and the days to come.
func (s *Sequencer) PrepareAhead(ctx context.Context) error {
	today := trail.Day(s.Clock())
	for i := range daysAhead + 1 {
		if err := s.ensure(ctx, today.AddDate(0, 0, i)); err != nil {
			return err
		}
	}
	return nil
}
