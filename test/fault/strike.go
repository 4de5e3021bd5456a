package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sentryagent/agentidp/pkg/idle"
	"github.com/sentryagent/agentidp/test/internal/rig"
)

// retryFor is how long what needs another server is tried again: that one may be away itself.
const retryFor = 20 * time.Second

// blow is what became of a fault: when it struck, and when it was healed.
type blow struct {
	fault

	struck, healed time.Time
}

// strike does to the rig what the schedule says, and returns when all is healed. Its error means that the schedule could
// not be kept, or that a program had ended by itself.
func (r *run) strike(ctx context.Context, begin time.Time, schedule []fault) ([]blow, error) {
	var group sync.WaitGroup
	failures := make([]error, len(schedule))
	blows := make([]blow, len(schedule))
	// On a busy machine a server may come back later than planned: the next fault of that target waits for it.
	busy := map[string]*sync.Mutex{}
	for _, f := range schedule {
		busy[f.target] = &sync.Mutex{}
	}
	for i, f := range schedule {
		blows[i].fault = f
		group.Go(func() {
			if idle.For(ctx, time.Until(begin.Add(f.at))) != nil {
				return
			}
			busy[f.target].Lock()
			defer busy[f.target].Unlock()
			if err := r.one(ctx, &blows[i]); err != nil {
				failures[i] = fmt.Errorf("%s: %w", f, err)
				r.say("  FAILED %v", failures[i])
			}
		})
	}
	group.Wait()
	return blows, errors.Join(errors.Join(failures...), ctx.Err())
}

func (r *run) one(ctx context.Context, b *blow) error {
	f := b.fault
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
			// Those of the fault before may not be back yet.
			if deleted, err := r.rig.DeleteConsumers(ctx, f.target); err != nil || deleted > 0 {
				return err
			}
			return errors.New("there is no consumer to delete")
		})
	}
	if err != nil {
		return err
	}
	b.struck = time.Now()
	_ = idle.For(ctx, time.Until(began.Add(f.length)))
	// What was begun is healed also when the run is given up: what is frozen could not be stopped.
	if err := heal(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	b.healed = time.Now()
	return nil
}

// again tries until it works or retryFor is over.
func again(ctx context.Context, do func(context.Context) error) error {
	limited, cancel := context.WithTimeout(ctx, retryFor)
	defer cancel()
	for {
		try, done := context.WithTimeout(limited, time.Second)
		err := do(try)
		done()
		if err == nil || idle.For(limited, 100*time.Millisecond) != nil {
			return err
		}
	}
}

// everyTarget is what faults can strike on a rig with these replicas.
func everyTarget(instances []string) targets {
	return targets{
		replicas: instances,
		servers:  rig.Servers(),
		cache:    "redis",
		streams:  []string{"AUDIT", "LIFECYCLE"},
	}
}
