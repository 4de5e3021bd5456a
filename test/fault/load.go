package main

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"sync"
	"time"

	"github.com/sentryagent/agentidp/pkg/idle"
	"github.com/sentryagent/agentidp/test/internal/rig"
)

const (
	// operators live through agents at the pace of people and scripts.
	operators  = 6
	leastThink = 50 * time.Millisecond
	mostThink  = 400 * time.Millisecond
	// fleets ask for tokens as fast as a busy agent does.
	fleets    = 2
	mostDelay = 50 * time.Millisecond
	// idleConnections per replica: more than workers ask at once.
	idleConnections = operators + fleets
	// firstWorker is its stream of random numbers; the schedule has another one.
	firstWorker  = 3
	poisonStream = 2
	// rollCallFor bounds the roll call at the end.
	rollCallFor = time.Minute
)

// load runs all workers until ctx ends, and returns when the last of them has its last answer.
func (r *run) load(ctx context.Context) {
	transport := &http.Transport{MaxIdleConnsPerHost: idleConnections}
	defer transport.CloseIdleConnections()
	replicas := r.replicas(rig.Services()...)
	var group sync.WaitGroup
	for number := range operators + fleets {
		w := r.worker(number, sender{http: &http.Client{Transport: transport}, replicas: replicas})
		if number >= operators {
			w.thinks(0, mostDelay)
			group.Go(func() { w.fleet(ctx, math.MaxInt) })
			continue
		}
		w.thinks(leastThink, mostThink)
		group.Go(func() { w.live(ctx) })
	}
	group.Wait()
}

// worker with that number, and the random numbers that belong to it. It does not think.
func (r *run) worker(number int, s sender) *worker {
	s.random = newRandom(r.seed, uint64(firstWorker+number)) // #nosec G115 -- a small number
	return &worker{
		sender: &s, number: number, operator: r.rig.Operator(), ledger: &r.ledger,
		think: func() time.Duration { return 0 },
	}
}

func (w *worker) thinks(least, most time.Duration) {
	w.think = func() time.Duration { return between(w.random, least, most) }
}

// rollCall goes through a short life of an agent on each replica of every service, once all are back: each of them must
// still do everything, and what they do goes into the books.
func (r *run) rollCall(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, rollCallFor)
	defer cancel()
	all := r.replicas(rig.Services()...)
	for number := range replicas {
		only := map[string][]replica{}
		for service, those := range all {
			only[service] = those[number : number+1]
		}
		w := r.worker(operators+fleets+number, sender{http: http.DefaultClient, replicas: only})
		if !w.everything(ctx) {
			return fmt.Errorf("the replicas %d do not do everything within %s of the end of the load", number+1, rollCallFor)
		}
	}
	return nil
}

// everything there is to be done with an agent, once; false when ctx ended before.
func (w *worker) everything(ctx context.Context) bool {
	m := w.register(ctx)
	if m == nil || !w.credential(ctx, m) || !w.credential(ctx, m) {
		return false
	}
	w.token(ctx, m)
	w.introspect(ctx, m)
	w.revokeToken(ctx, m)
	w.mistake(ctx, m)
	return w.update(ctx, m) && w.rotate(ctx, m) && w.revokeCredential(ctx, m) && w.suspend(ctx, m) && w.decommission(ctx, m)
}

// live through agents, one after the other.
func (w *worker) live(ctx context.Context) {
	for ctx.Err() == nil {
		w.life(ctx)
	}
}

// fleet asks for tokens of one agent, again and again, so many times at most.
func (w *worker) fleet(ctx context.Context, most int) {
	m := w.register(ctx)
	if m == nil || !w.credential(ctx, m) {
		return
	}
	for range most {
		if !w.pause(ctx) {
			return
		}
		if w.ask(ctx, m.id, m.credentials[0].value, agentScopes, nil) == "" && idle.For(ctx, w.backoff()) != nil {
			return
		}
	}
}
