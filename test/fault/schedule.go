package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"time"
)

// kind is what is done to a target.
type kind string

const (
	kill  kind = "kill"             // at once, and started again after a while
	stall kind = "freeze"           // SIGSTOP, and SIGCONT after a while
	hang  kind = "hang and kill"    // frozen for a while, and then killed: what was sent to it meanwhile is lost
	empty kind = "empty"            // all data of Redis
	drop  kind = "delete consumers" // of a stream
)

// fault is one of a schedule. Its length is how long the target is away; 0 for what is done in a moment.
type fault struct {
	at, length time.Duration
	kind       kind
	target     string
}

func (f fault) String() string {
	text := fmt.Sprintf("%6.1fs  %s %s", f.at.Seconds(), f.kind, f.target)
	if f.length > 0 {
		text += fmt.Sprintf(" for %.1fs", f.length.Seconds())
	}
	return text
}

func (f fault) end() time.Duration { return f.at + f.length }

// targets are what faults can strike.
type targets struct {
	replicas []string // of services: killed and frozen
	servers  []string // as well
	cache    string   // emptied
	streams  []string // lose their consumers
}

// deck holds every fault there is once.
func (t targets) deck() []fault {
	processes := slices.Concat(t.replicas, t.servers)
	all := make([]fault, 0, 3*len(processes)+1+len(t.streams))
	for _, name := range processes {
		all = append(all, fault{kind: kill, target: name}, fault{kind: stall, target: name},
			fault{kind: hang, target: name})
	}
	all = append(all, fault{kind: empty, target: t.cache})
	for _, name := range t.streams {
		all = append(all, fault{kind: drop, target: name})
	}
	return all
}

const (
	calmBefore = 3 * time.Second // the load gets going
	calmAfter  = 1 * time.Second // the last fault is over
	leastGap   = 500 * time.Millisecond
	mostGap    = 5500 * time.Millisecond
	mostDown   = 4 * time.Second
	stallFor   = 10 * time.Second
	mostHang   = 2 * time.Second
	// One freeze of a replica in longOneIn lasts until another has followed it: what it was about to store is sent to
	// others after 10 s, and what it leased is theirs after 15 s. Then it goes on with what it had begun.
	longOneIn = 3
	leastLong = 16 * time.Second
	mostLong  = 20 * time.Second
)

// plan is the schedule of a seed: the same for the same arguments. Every fault comes once before any comes again; a
// target is left alone while it is away, while several targets may be away at once.
func plan(seed uint64, duration time.Duration, t targets) []fault {
	random := newRandom(seed, 1)
	var schedule, cards []fault
	away := map[string]time.Duration{}
	for at := calmBefore; at+stallFor < duration-calmAfter; at += between(random, leastGap, mostGap) {
		if len(cards) == 0 {
			cards = t.deck()
			random.Shuffle(len(cards), func(i, j int) { cards[i], cards[j] = cards[j], cards[i] })
		}
		next := slices.IndexFunc(cards, func(f fault) bool { return away[f.target] <= at })
		if next < 0 {
			continue
		}
		f := cards[next]
		cards = slices.Delete(cards, next, next+1)
		f.at = at
		switch f.kind {
		case kill:
			f.length = between(random, 0, mostDown)
		case stall:
			f.length = stallFor
			long := between(random, leastLong, mostLong)
			if random.IntN(longOneIn) == 0 && slices.Contains(t.replicas, f.target) && at+long < duration-calmAfter {
				f.length = long
			}
		case hang:
			f.length = between(random, 0, mostHang)
		default:
		}
		away[f.target] = f.end() + leastGap
		schedule = append(schedule, f)
	}
	return schedule
}

// between is in whole milliseconds, so that a schedule is what it is printed as.
func between(random *rand.Rand, least, most time.Duration) time.Duration {
	span := int64((most - least) / time.Millisecond)
	return least + time.Duration(random.Int64N(span+1))*time.Millisecond
}

func list(out io.Writer, schedule []fault) {
	for _, f := range schedule {
		_, _ = fmt.Fprintln(out, " ", f)
	}
}
