package quota

import (
	"context"
	"errors"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/time/rate"
)

const (
	// laneDelay is how long every attempt in the lane waits at least: who sends the
	// next one when the last is answered sends no more than a few a second.
	laneDelay = 250 * time.Millisecond
	// laneRate is how many attempts per second leave the lane of one replica. Each
	// costs a question to the credentials service.
	laneRate = 100
	// laneWait is how long one attempt waits at most; with it, as many may wait as
	// leave in that time.
	laneWait = 4 * time.Second
	// lanePerReplica is by how much more all addresses may fail at one replica than
	// one address, before all attempts take the lane.
	lanePerReplica = 10
	// laneAddresses bounds the addresses that are remembered to be past their limit.
	laneAddresses = 10_000
)

// errLaneFull says that more attempts wait already than can be looked into in time.
var errLaneFull = errors.New("too many authentications with secrets that nobody knows")

// Lane is where attempts wait for their turn whose secrets are not known, once too
// many of them have failed: those from an address past its limit, and all of them
// when a replica sees failures in great numbers from everywhere. So a flood queues
// behind itself. It refuses nothing for what others did, as long as there is room.
// It belongs to one replica and asks nobody.
type Lane struct {
	clock  func() time.Time
	sleep  func(ctx context.Context, d time.Duration) error
	over   *otter.Cache[string, time.Time] // address past its limit → until when
	budget *rate.Limiter                   // failures of this replica
	turns  *rate.Limiter
}

// NewLane makes a Lane; perMinute is the limit of failures of a client from one
// address, at least 1.
func NewLane(perMinute int, clock func() time.Time) *Lane {
	whole := perAddress * lanePerReplica * perMinute
	return &Lane{
		clock:  clock,
		sleep:  sleep,
		over:   otter.Must(&otter.Options[string, time.Time]{MaximumSize: laneAddresses}),
		budget: rate.NewLimiter(rate.Limit(whole)/60, whole),
		turns:  rate.NewLimiter(laneRate, 1),
	}
}

// Failed notes that an attempt failed, and how long its address is past its limit.
func (l *Lane) Failed(ipAddress string, limited time.Duration) {
	now := l.clock()
	l.budget.AllowN(now, 1)
	if limited > 0 {
		l.over.Set(ipAddress, now.Add(limited))
	}
}

// Enter waits for the turn of an attempt from the address. limited is how long the
// address is past its limit. The error is errLaneFull, or that of ctx.
func (l *Lane) Enter(ctx context.Context, ipAddress string) (limited time.Duration, err error) {
	now := l.clock()
	if until, ok := l.over.GetIfPresent(ipAddress); ok {
		limited = max(until.Sub(now), 0)
	}
	if limited == 0 && l.budget.TokensAt(now) >= 1 {
		return 0, nil
	}
	turn := l.turns.ReserveN(now, 1)
	wait := max(turn.DelayFrom(now), laneDelay)
	full := wait > laneWait
	if full {
		turn.CancelAt(now)
		wait = laneDelay
	}
	if err := l.sleep(ctx, wait); err != nil {
		return 0, err
	}
	if full {
		return limited, errLaneFull
	}
	return limited, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
