package quota

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"

	"github.com/sentryagent/agentidp/pkg/idle"
	"github.com/sentryagent/agentidp/services/token/internal/issue"
)

const (
	// laneDelay is how long every attempt in a crowd waits at least: who sends the next
	// one when the last is answered sends no more than one a second.
	laneDelay = time.Second
	// laneRefusal is how much longer one waits that failed in a crowd: a right secret is
	// not kept waiting by it, and who waits for answers sends a third as many. At most
	// laneKept are kept at a time, as each is a request in memory.
	laneRefusal = 2 * time.Second
	laneKept    = 1024
	// laneBeside is how many attempts that are not in a crowd are looked into at a
	// time. The others wait for them, so that no crowd gets in before the first of it
	// has failed.
	laneBeside = 32
	// laneInterval is the time between two attempts that leave a queue. Each costs
	// questions to other services.
	laneInterval = 10 * time.Millisecond
	// laneWait is how long one attempt waits at most in a queue.
	laneWait = 3 * time.Second
	// laneRoom is how many may wait in a queue: as many as leave in that time.
	laneRoom = int(laneWait / laneInterval)
	// laneShare is how many of those may be from one address within its limit.
	laneShare = 20
	// crowdWaits is how many attempts wait at a time when there is more to do about a
	// crowd than to keep it waiting, and crowdLasts how long that is done then.
	crowdWaits = 100
	crowdLasts = 5 * time.Second
	// lanePerReplica is by how many more a minute may fail at one replica from all
	// addresses than from one, before all attempts are a crowd.
	lanePerReplica = 3
	// laneAddresses bounds the addresses that are remembered to be past their limit.
	laneAddresses = 10_000
)

// errLaneFull says that more attempts wait already than can be looked into in time.
var errLaneFull = errors.New("too many authentications with secrets that nobody knows")

// Lane is where attempts wait whose secrets are not known, once too many of them have
// failed: from one address past its limit, or, in greater numbers, from everywhere at
// one replica. Such a crowd is not refused, as a right secret may be in it; it is slow,
// and what it costs is bounded. Secrets are screened all together afterwards, so they
// do not wait for each other. Assertions cannot be, and queue for their turn: those
// from addresses past their limit in one queue, and all others in another one, in which
// no address takes more than its share. A flood of assertions from very many addresses,
// each within its limit, does fill the second queue; then good ones by agents that this
// replica does not remember are turned away too.
// It belongs to one replica and asks nobody.
type Lane struct {
	clock  func() time.Time
	over   *otter.Cache[string, time.Time] // place past its limit → until when
	budget *rate.Limiter                   // failures of this replica
	beside *semaphore.Weighted
	inside atomic.Int64 // how many are looked into now

	limited, others *queue

	waiting      atomic.Int64 // attempts of a crowd that wait for laneDelay or are kept
	kept         atomic.Int64 // of them, those that failed and wait for laneRefusal
	crowdedUntil atomic.Int64 // Unix nanoseconds
}

// NewLane makes a Lane; perMinute is the limit of failures of a client from one
// address, at least 1.
func NewLane(perMinute int, clock func() time.Time) *Lane {
	one := perAddress * perMinute
	return &Lane{
		clock:   clock,
		over:    otter.Must(&otter.Options[string, time.Time]{MaximumSize: laneAddresses}),
		budget:  rate.NewLimiter(lanePerReplica*rate.Limit(one)/60, one),
		beside:  semaphore.NewWeighted(laneBeside),
		limited: newQueue(laneRoom, clock),
		others:  newQueue(laneShare, clock),
	}
}

// Failed notes that an attempt failed, and how long its place is past its limit.
func (l *Lane) Failed(place string, limited time.Duration) {
	now := l.clock()
	l.budget.AllowN(now, 1)
	if limited > 0 {
		l.over.Set(place, now.Add(limited))
	}
}

// Enter waits until an attempt from the place may be looked into: for laneDelay where
// attempts fail in great numbers, else until fewer than laneBeside others are. The
// error is that of ctx. A failure is to be noted before it leaves.
func (l *Lane) Enter(ctx context.Context, place string) (issue.Entry, error) {
	limited, crowd := l.crowded(place, l.inside.Load())
	if !crowd {
		if err := l.beside.Acquire(ctx, 1); err != nil {
			return issue.Entry{}, err
		}
		// What was found out while it waited counts for it too.
		if limited, crowd = l.crowded(place, l.inside.Add(1)-1); !crowd {
			return issue.Entry{Leave: l.leave}, nil
		}
		l.leave()
	}
	if l.waiting.Add(1) >= crowdWaits {
		l.crowdedUntil.Store(l.clock().Add(crowdLasts).UnixNano())
	}
	defer l.waiting.Add(-1)
	return issue.Entry{Crowd: true, Limited: limited}, idle.For(ctx, laneDelay)
}

func (l *Lane) leave() {
	l.inside.Add(-1)
	l.beside.Release(1)
}

// Keep is called for an attempt that failed in a crowd, and returns when it is time to
// tell: after laneRefusal, or when ctx ends.
func (l *Lane) Keep(ctx context.Context) {
	defer l.kept.Add(-1)
	if l.kept.Add(1) > laneKept {
		return
	}
	l.waiting.Add(1)
	defer l.waiting.Add(-1)
	_ = idle.For(ctx, laneRefusal) // who leaves is told nothing
}

// Crowded tells whether many attempts wait, or did not long ago.
func (l *Lane) Crowded() bool { return l.clock().UnixNano() < l.crowdedUntil.Load() }

// Queue waits for the turn of an attempt that has entered a crowd. The error is
// errLaneFull, or that of ctx.
func (l *Lane) Queue(ctx context.Context, place string) error {
	if limited, _ := l.crowded(place, 0); limited > 0 {
		return l.limited.pass(ctx, place)
	}
	return l.others.pass(ctx, place)
}

// crowded tells whether attempts from the place fail in great numbers, or those from
// everywhere. inside are those who may fail yet.
func (l *Lane) crowded(place string, inside int64) (limited time.Duration, crowd bool) {
	now := l.clock()
	if until, ok := l.over.GetIfPresent(place); ok {
		limited = max(until.Sub(now), 0)
	}
	return limited, limited > 0 || l.budget.TokensAt(now) < float64(1+inside)
}

// queue lets one attempt pass per laneInterval, in the order they came.
type queue struct {
	clock func() time.Time
	share int

	mu      sync.Mutex
	waiting int
	from    map[string]int // how many of them are from a place

	turn chan struct{} // full while somebody waits to be the next to pass
	next time.Time     // of who holds the turn
}

func newQueue(share int, clock func() time.Time) *queue {
	return &queue{clock: clock, share: share, from: map[string]int{}, turn: make(chan struct{}, 1)}
}

// pass waits for the attempt's turn.
func (q *queue) pass(ctx context.Context, place string) error {
	if !q.join(place) {
		return errLaneFull
	}
	defer q.leave(place)
	select {
	case q.turn <- struct{}{}: // the runtime lets senders in as they came
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-q.turn }()
	// Who goes away before its turn has not had it: next is as it was.
	if err := idle.For(ctx, q.next.Sub(q.clock())); err != nil {
		return err
	}
	now := q.clock()
	if q.next = q.next.Add(laneInterval); q.next.Before(now) {
		q.next = now // at most one interval is made up for
	}
	return nil
}

// join answers whether there is room; then leave must follow.
func (q *queue) join(place string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.waiting >= laneRoom || q.from[place] >= q.share {
		return false
	}
	q.waiting++
	q.from[place]++
	return true
}

func (q *queue) leave(place string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting--
	if q.from[place]--; q.from[place] == 0 {
		delete(q.from, place)
	}
}
