package main

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sentryagent/agentidp/pkg/idle"
	"github.com/sentryagent/agentidp/test/internal/rig"
)

const (
	// many replicas of each service share the load at the widest.
	many = 3
	// In Kubernetes a replica gets SIGTERM at the moment when the others are told to send it nothing more. Some of them
	// hear of it a little before the replica does, and most after.
	mostEarly = 200 * time.Millisecond
	mostLate  = 2 * time.Second
	// shareOf requests of a service are looked at before it is said who answered them.
	shareOf = 60
	// shareWithin is how long there may be too few.
	shareWithin = 30 * time.Second
)

// rolling says how replicas go.
type rolling struct {
	drain time.Duration // DRAIN_DELAY of all services
	kill  bool          // by SIGKILL, which must not go unnoticed
}

// roll replaces every service, one after the other, then scales all of them up and down again, and that again until the
// time is over, under load through the proxy. Nothing that a client asks for may fail.
func (r *run) roll(ctx context.Context, how rolling) error {
	before, err := r.open(ctx)
	if err != nil {
		return err
	}
	r.say("seed %d, at least %s; the same again: make roll DURATION=%s SEED=%d", r.seed, r.duration, r.duration, r.seed)
	r.begin = time.Now()
	loaded, stop := context.WithCancel(ctx)
	defer stop()
	var working sync.WaitGroup
	working.Go(func() { r.mix(loaded) })
	random := newRandom(r.seed, 1)
	for first := true; err == nil && (first || time.Since(r.begin) < r.duration); first = false {
		if err = r.replaceAll(ctx, random, how); err == nil {
			err = r.scale(ctx, random, how)
		}
		r.rounds++
	}
	stop()
	working.Wait()
	r.over = time.Now()
	if err != nil {
		return err
	}
	asked, failed := r.judge.verdict()
	r.say("the load has ended: %d requests of clients, %d failures; everything comes to rest", asked, len(failed))
	return r.close(ctx, before, nil, func() []finding {
		return slices.Concat(failed, few(r.ledger.actions, r.begin, r.over), r.repeated())
	})
}

// repeated is what the proxy had to do beyond sending each request once, and connections that found nobody.
func (r *run) repeated() []finding {
	passed, err := r.rig.Passed()
	if err != nil {
		return []finding{{what: err.Error()}}
	}
	var found []finding
	var total int64
	for _, name := range slices.Sorted(maps.Keys(passed)) {
		p := passed[name]
		total += p.Requests
		if p.Again+p.Refused+p.Broken > 0 {
			found = append(found, finding{what: fmt.Sprintf("of what the proxy sent to %s, %d were tried again, %d connections refused and %d answers broken off",
				name, p.Again, p.Refused, p.Broken)})
		}
	}
	r.say("%d requests went through the proxy, each of them once; %d replicas answered them", total, len(passed))
	return found
}

// replaceAll rolls one service after the other: the new replica is there before the old one goes.
func (r *run) replaceAll(ctx context.Context, random *rand.Rand, how rolling) error {
	services := rig.Services()
	random.Shuffle(len(services), func(i, j int) { services[i], services[j] = services[j], services[i] })
	for _, service := range services {
		old := r.rig.Instances(service)
		if err := r.grow(ctx, slices.Repeat([]string{service}, len(old))...); err != nil {
			return err
		}
		if err := r.end(ctx, random, how, old...); err != nil {
			return err
		}
	}
	return nil
}

// grow by one replica of each of these services, and send to them once they are ready.
func (r *run) grow(ctx context.Context, services ...string) error {
	began := time.Now()
	names, err := r.rig.Add(ctx, services...)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := r.rig.Admit(name); err != nil {
			return err
		}
	}
	r.say("  %6.1fs  ready after %.1fs: %s", time.Since(r.begin).Seconds(), time.Since(began).Seconds(), names)
	return nil
}

// end these replicas, all at once.
func (r *run) end(ctx context.Context, random *rand.Rand, how rolling, names ...string) error {
	var group errgroup.Group
	began := time.Now()
	for _, name := range names {
		late := between(random, -mostEarly, mostLate)
		r.say("  %6.1fs  SIGTERM to %s; the proxy hears of it %.1fs later", time.Since(r.begin).Seconds(), name, late.Seconds())
		group.Go(func() error { return r.dismiss(ctx, name, began.Add(late)) })
		group.Go(func() error {
			_ = idle.For(ctx, time.Until(began.Add(max(0, -late))))
			if how.kill {
				return r.rig.Kill(name)
			}
			return r.rig.StopService(name)
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	r.say("  %6.1fs  gone after %.1fs: %s", time.Since(r.begin).Seconds(), time.Since(began).Seconds(), names)
	for _, name := range names {
		r.rig.Forget(name)
	}
	return nil
}

func (r *run) dismiss(ctx context.Context, name string, at time.Time) error {
	_ = idle.For(ctx, time.Until(at))
	return r.rig.Dismiss(name)
}

// scale every service up and down again. Meanwhile two agents reach their limits, however many replicas there are.
func (r *run) scale(ctx context.Context, random *rand.Rand, how rolling) error {
	l := r.newLimits(ctx)
	if l == nil {
		return ctx.Err()
	}
	defer l.done()
	l.spend(ctx, tokensPerMonth/4)
	more := slices.Repeat(rig.Services(), many-1)
	if err := r.grow(ctx, more...); err != nil {
		return err
	}
	all := r.rig.Instances()
	then, err := r.work(ctx, all)
	if err != nil {
		return err
	}
	var group sync.WaitGroup
	group.Go(func() { l.spend(ctx, tokensPerMonth/2) })
	group.Go(func() { l.call(ctx, requestsPerMinute/2) })
	shareErr := r.share(ctx, all, then)
	group.Wait()
	now, err := r.work(ctx, all)
	if err != nil {
		return err
	}
	group.Go(func() { l.spend(ctx, tokensPerMonth/4+beyond) })
	group.Go(func() { l.call(ctx, requestsPerMinute/2+beyond) })
	err = r.end(ctx, random, how, r.superfluous(random)...)
	group.Wait()
	unlimited := int64(0)
	for _, name := range all {
		unlimited += now[name].Unlimited
	}
	found := l.exact(unlimited)
	r.judge.find(found...)
	r.say("  %6.1fs  tokens of a month: %d of %d, then %d refused; requests of a minute: %d of %d, then %d refused",
		time.Since(r.begin).Seconds(), l.issued.Load(), tokensPerMonth, l.spent.Load(), l.answered.Load(), requestsPerMinute, l.stops.Load())
	if err == nil {
		err = shareErr
	}
	return err
}

// superfluous are all replicas but one of each service.
func (r *run) superfluous(random *rand.Rand) []string {
	names := make([]string, 0, len(rig.Services())*(many-1))
	for _, service := range rig.Services() {
		those := r.rig.Instances(service)
		stays := random.IntN(len(those))
		names = append(names, slices.Delete(those, stays, stays+1)...)
	}
	return names
}

// work of these replicas so far, as they say themselves.
func (r *run) work(ctx context.Context, names []string) (map[string]rig.Work, error) {
	all := map[string]rig.Work{}
	for _, name := range names {
		work, err := r.rig.Work(ctx, name)
		if err != nil {
			return nil, err
		}
		all[name] = work
	}
	return all, nil
}

// share looks at what these replicas did since then, once it is enough of each service, and finds those that did less than
// half of their part.
func (r *run) share(ctx context.Context, names []string, then map[string]rig.Work) error {
	deadline := time.Now().Add(shareWithin)
	for {
		now, err := r.work(ctx, names)
		if err != nil {
			return err
		}
		for name, work := range now {
			now[name] = work.Less(then[name])
		}
		lazy, enough := unfair(now)
		if enough && len(lazy) == 0 || time.Now().After(deadline) || ctx.Err() != nil {
			r.tellShares(now)
			if !enough {
				lazy = append(lazy, finding{what: fmt.Sprintf("too little to judge by: not %d requests of each service in %s", shareOf, shareWithin)})
			}
			r.judge.find(lazy...)
			return ctx.Err()
		}
		_ = idle.For(ctx, 200*time.Millisecond)
	}
}

// unfair are the replicas that answered less than half of an equal share of the world's requests, or none of the others'
// events; enough says whether there was enough work for that to mean something.
func unfair(done map[string]rig.Work) (idle []finding, enough bool) {
	total := map[string]int64{}
	count := map[string]int64{}
	for name, work := range done {
		total[rig.Program(name)] += work.Public
		count[rig.Program(name)]++
	}
	enough = true
	for name, work := range done {
		service := rig.Program(name)
		enough = enough && total[service] >= shareOf
		if work.Public*count[service]*2 < total[service] {
			idle = append(idle, finding{what: fmt.Sprintf("%s answered %d of %d requests, beside %d others", name, work.Public, total[service], count[service]-1)})
		}
		if service == "audit" && work.Stored == 0 {
			idle = append(idle, finding{what: name + " stored no event, beside others that did"})
		}
	}
	return idle, enough
}

func (r *run) tellShares(done map[string]rig.Work) {
	for _, name := range slices.Sorted(maps.Keys(done)) {
		work := done[name]
		stored := ""
		if rig.Program(name) == "audit" {
			stored = fmt.Sprintf(", stored %d events", work.Stored)
		}
		r.say("           %-14s answered %5d requests of the world and %5d of services%s", name, work.Public, work.Internal, stored)
	}
}
