package quota

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/time/rate"
)

const (
	// laneDelay is how long every attempt in the lane waits at least: who sends the
	// next one when the last is answered sends no more than a few a second.
	laneDelay = 250 * time.Millisecond
	// laneInterval is the time between two attempts that leave a queue. Each costs
	// questions to other services.
	laneInterval = 10 * time.Millisecond
	// laneWait is how long one attempt waits at most.
	laneWait = 4 * time.Second
	// laneRoom is how many may wait in a queue: as many as leave in that time.
	laneRoom = int((laneWait - laneDelay) / laneInterval)
	// laneShare is how many of those may be from one address within its limit.
	laneShare = 20
	// lanePerReplica is by how much more all addresses may fail at one replica than
	// one address, before all attempts take the lane.
	lanePerReplica = 10
	// laneAddresses bounds the addresses that are remembered to be past their limit.
	laneAddresses = 10_000
)

// errLaneFull says that more attempts wait already than can be looked into in time.
var errLaneFull = errors.New("too many authentications with secrets that nobody knows")

// Lane is where attempts wait for their turn whose secrets are not known, once too
// many of them have failed: those from an address past its limit in one queue, and
// all others in another one while a replica sees failures in great numbers from
// everywhere. So addresses past their limit wait for each other and hold up nobody
// else, and of the others none takes more than its share. A flood from very many
// addresses, each within its limit, does fill the second queue; then good secrets
// that this replica has not seen are turned away too.
// It belongs to one replica and asks nobody.
type Lane struct {
	clock  func() time.Time
	over   *otter.Cache[string, time.Time] // place past its limit → until when
	budget *rate.Limiter                   // failures of this replica

	limited, others *queue
}

// NewLane makes a Lane; perMinute is the limit of failures of a client from one
// address, at least 1.
func NewLane(perMinute int, clock func() time.Time) *Lane {
	whole := perAddress * lanePerReplica * perMinute
	return &Lane{
		clock:   clock,
		over:    otter.Must(&otter.Options[string, time.Time]{MaximumSize: laneAddresses}),
		budget:  rate.NewLimiter(rate.Limit(whole)/60, whole),
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

// Enter waits for the turn of an attempt from the place. limited is how long the
// place is past its limit. The error is errLaneFull, or that of ctx.
func (l *Lane) Enter(ctx context.Context, place string) (limited time.Duration, err error) {
	now := l.clock()
	if until, ok := l.over.GetIfPresent(place); ok {
		limited = max(until.Sub(now), 0)
	}
	switch {
	case limited > 0:
		return limited, l.limited.pass(ctx, place)
	case l.budget.TokensAt(now) < 1:
		return 0, l.others.pass(ctx, place)
	}
	return 0, nil
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

// pass waits for at least laneDelay, also to say that there is no room.
func (q *queue) pass(ctx context.Context, place string) error {
	room := q.join(place)
	if room {
		defer q.leave(place)
	}
	if err := sleep(ctx, laneDelay); err != nil {
		return err
	}
	if !room {
		return errLaneFull
	}
	select {
	case q.turn <- struct{}{}: // the runtime lets senders in as they came
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-q.turn }()
	// Who goes away before its turn has not had it: next is as it was.
	if err := sleep(ctx, q.next.Sub(q.clock())); err != nil {
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

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
