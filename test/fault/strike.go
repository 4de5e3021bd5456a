package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sentryagent/agentidp/test/internal/rig"
)

// retryFor is how long what needs another server is tried again: that one may be away itself.
const retryFor = 10 * time.Second

// strike does to the rig what the schedule says, and returns when all is healed. Its error means that the schedule could
// not be kept, or that a program had ended by itself.
func (r *run) strike(ctx context.Context, begin time.Time, schedule []fault) error {
	var group sync.WaitGroup
	failures := make([]error, len(schedule))
	// On a busy machine a server may come back later than planned: the next fault of that target waits for it.
	busy := map[string]*sync.Mutex{}
	for _, f := range schedule {
		busy[f.target] = &sync.Mutex{}
	}
	for i, f := range schedule {
		group.Go(func() {
			if !until(ctx, begin.Add(f.at)) {
				return
			}
			busy[f.target].Lock()
			defer busy[f.target].Unlock()
			if err := r.one(ctx, f); err != nil {
				failures[i] = fmt.Errorf("%s: %w", f, err)
				r.say("  FAILED %v", failures[i])
			}
		})
	}
	group.Wait()
	return errors.Join(errors.Join(failures...), ctx.Err())
}

func (r *run) one(ctx context.Context, f fault) error {
	r.say("  %s", f)
	began := time.Now()
	heal := func(context.Context) error { return nil }
	var err error
	switch f.kind {
	case kill:
		err = r.rig.Kill(f.target)
		heal = func(ctx context.Context) error { return r.rig.Revive(ctx, f.target) }
	case stall:
		err = r.rig.Freeze(f.target)
		heal = func(context.Context) error { return r.rig.Thaw(f.target) }
	case hang:
		err = r.rig.Freeze(f.target)
		heal = func(ctx context.Context) error {
			return errors.Join(r.rig.KillAll(f.target), r.rig.Revive(ctx, f.target))
		}
	case empty:
		err = again(ctx, func(ctx context.Context) error { return r.rig.EmptyRedis(ctx) })
	case drop:
		err = again(ctx, func(ctx context.Context) error {
			_, err := r.rig.DeleteConsumers(ctx, f.target)
			return err
		})
	}
	if err != nil {
		return err
	}
	until(ctx, began.Add(f.length))
	// What was begun is healed also when the run is given up: what is frozen could not be stopped.
	return heal(context.WithoutCancel(ctx))
}

// again tries until it works or retryFor is over.
func again(ctx context.Context, do func(context.Context) error) error {
	limited, cancel := context.WithTimeout(ctx, retryFor)
	defer cancel()
	for {
		try, done := context.WithTimeout(limited, time.Second)
		err := do(try)
		done()
		if err == nil || !until(limited, time.Now().Add(100*time.Millisecond)) {
			return err
		}
	}
}

// until waits for a moment, and says whether ctx still lives then.
func until(ctx context.Context, moment time.Time) bool {
	timer := time.NewTimer(time.Until(moment))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// everyTarget is what faults can strike on a rig with these replicas.
func everyTarget(instances []string) targets {
	return targets{
		processes: append(instances, rig.Servers()...),
		cache:     "redis",
		streams:   []string{"AUDIT", "LIFECYCLE"},
	}
}
