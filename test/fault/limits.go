package main

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sentryagent/agentidp/test/internal/rig"
)

const (
	// requestsPerMinute is what one client may ask of the registry in a minute: more than the operator does, as whom all
	// who live through agents ask (rolledOperators, each every 300 ms or so), and few enough to be asked within the minute.
	requestsPerMinute = 1200
	// tokensPerMonth is more than any agent of the load takes.
	tokensPerMonth = 300
	// beyond a limit so many more are asked for.
	beyond = 40
	// callers ask at once, and as many spenders.
	callers = 8
)

// limited are the settings with two limits that limits reaches and nobody else.
func limited() map[string]string {
	settings := rig.LimitsOn()
	settings["REGISTRY_RATE_LIMIT_PER_MINUTE"] = fmt.Sprint(requestsPerMinute)
	settings["FREE_TIER_MAX_MONTHLY_TOKENS"] = fmt.Sprint(tokensPerMonth)
	return settings
}

// limits are two agents that go beyond one limit each: of requests, and of tokens in a month. It takes them several
// stages, so that replicas can come and go in between and meanwhile.
type limits struct {
	spenders, callers []*worker // at work at the same time
	done              func()
	spender           *member
	asker             *member
	bearer            string    // the asker's
	began             time.Time // before its first request

	issued, spent   atomic.Int64 // tokens, and refusals of one
	answered, stops atomic.Int64 // requests, and refusals of one
}

// newLimits makes the agents; nil when ctx ended before.
func (r *run) newLimits(ctx context.Context) *limits {
	through, done := r.through()
	l := &limits{done: done}
	for number := range callers {
		l.callers = append(l.callers, r.worker(firstCaller+number, through))
		l.spenders = append(l.spenders, r.worker(firstCaller+callers+number, through))
	}
	first := l.callers[0]
	// Rounds differ in their agents.
	first.number = firstCaller + r.rounds*callers
	if l.spender = first.register(ctx); l.spender == nil || !first.credential(ctx, l.spender) {
		return nil
	}
	if l.asker = first.register(ctx); l.asker == nil || !first.credential(ctx, l.asker) {
		return nil
	}
	l.began = time.Now()
	token := first.fetch(ctx, l.asker.id, l.asker.credentials[0].value, agentScopes)
	if token == "" {
		return nil
	}
	l.bearer = "Bearer " + token
	l.answered.Store(1) // the token was a request too: all services charge the same window
	return l
}

// each of them does something, so often together.
func each(ctx context.Context, workers []*worker, times int, do func(*worker)) {
	var group sync.WaitGroup
	var left atomic.Int64
	left.Store(int64(times))
	for _, w := range workers {
		group.Go(func() {
			for ctx.Err() == nil && left.Add(-1) >= 0 {
				do(w)
			}
		})
	}
	group.Wait()
}

// spend so many tokens of the month.
func (l *limits) spend(ctx context.Context, times int) {
	overQuota := map[int]string{http.StatusForbidden: "quota_exceeded"}
	each(ctx, l.spenders, times, func(w *worker) {
		if w.ask(ctx, l.spender.id, l.spender.credentials[0].value, agentScopes, overQuota) != "" {
			l.issued.Add(1)
		} else {
			l.spent.Add(1)
		}
	})
}

// call the registry so often.
func (l *limits) call(ctx context.Context, times int) {
	each(ctx, l.callers, times, func(w *worker) {
		t := w.send(context.WithoutCancel(ctx), request{
			service: "registry", method: http.MethodGet, path: "/api/v1/agents/" + l.asker.id, bearer: l.bearer,
		})
		switch t.status {
		case http.StatusOK:
			l.answered.Add(1)
		case http.StatusTooManyRequests:
			l.stops.Add(1)
		default:
			w.ledger.surprise("%s (request %s)", t, t.id)
		}
	})
}

// exact says where a limit was not kept exactly. unlimited is how many requests were let pass because Redis did not
// answer: those the limit of a minute does not count, and no other.
func (l *limits) exact(unlimited int64) []finding {
	var found []finding
	wrong := func(format string, args ...any) { found = append(found, finding{what: fmt.Sprintf(format, args...)}) }
	if n := l.issued.Load(); n != tokensPerMonth {
		wrong("agent %s had %d tokens in this month, and %d refusals, where it may have %d", l.spender.id, n, l.spent.Load(), tokensPerMonth)
	}
	if took := time.Since(l.began); took > time.Minute {
		wrong("too slow to judge by: %d requests took %s, which is longer than the minute they are limited in", l.answered.Load()+l.stops.Load(), took)
	} else if n := l.answered.Load(); n < requestsPerMinute || n > requestsPerMinute+unlimited {
		wrong("agent %s had %d requests answered within a minute, and %d refused, where it may have %d and %d were not counted",
			l.asker.id, n, l.stops.Load(), requestsPerMinute, unlimited)
	}
	return found
}
