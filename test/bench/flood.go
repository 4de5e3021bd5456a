package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sentryagent/agentidp/test/bench/internal/report"
	"github.com/sentryagent/agentidp/test/internal/load"
	"github.com/sentryagent/agentidp/test/internal/rig"
)

const (
	// strangerEvery is how often a good client asks that the token service has never seen. Each costs bcrypt.
	strangerEvery    = 500 * time.Millisecond
	strangerPatience = 20 * time.Second
)

// flood measures what good clients notice of one process that sends wrong secrets as fast as one core can. The limits of
// failures are those of production.
func (b *bench) flood(ctx context.Context) error {
	if err := b.serve(ctx, "RS256", nil); err != nil {
		return err
	}
	for range b.rounds {
		for _, kind := range []struct {
			name      string
			addresses int
		}{{"from many addresses", attempts}, {"from one address", 1}} {
			if err := b.warm(ctx, someAgents); err != nil {
				return err
			}
			if err := b.floodOnce(ctx, kind.name, kind.addresses); err != nil {
				return fmt.Errorf("%s: %w", kind.name, err)
			}
		}
	}
	// A new process, whose peak is that of what comes next.
	return b.rig.Restart(ctx, "token", withAlgorithm(b.mode.algorithm, b.mode.settings))
}

func (b *bench) floodOnce(ctx context.Context, name string, addresses int) error {
	f := report.Flood{Name: name, Answers: map[string]int64{}}
	quiet1, err := b.good(ctx, &f)
	if err != nil {
		return err
	}
	stop, err := b.startAttack(ctx, attackPlan{
		Address: b.rig.Public("token"), Host: b.rig.Public("token"), Real: ids(b.agents[:someAgents]), Addresses: addresses,
		Connections: attackConnections,
	})
	if err != nil {
		return err
	}
	flooded, err := b.good(ctx, &f)
	attacked, stopErr := stop()
	memory, memoryErr := b.rig.Memory()
	if err := errors.Join(err, stopErr, memoryErr); err != nil {
		return err
	}
	f.Peak = memory["token"].Peak
	b.answered[actionAuthFailed] += attacked.Answers[401]
	b.unsure[actionAuthFailed] += attacked.Unanswered + attacked.Answers[503]
	if _, err := b.rig.Settle(ctx, 2*settleWithin); err != nil {
		return err
	}
	quiet2, err := b.good(ctx, &f)
	if err != nil {
		return err
	}
	f.QuietPerSecond = (quiet1.PerSecond() + quiet2.PerSecond()) / 2
	f.QuietP99ms = milliseconds(max(quiet1.Latencies.Percentile(99), quiet2.Latencies.Percentile(99)))
	f.FloodPerSecond, f.FloodP99ms = flooded.PerSecond(), milliseconds(flooded.Latencies.Percentile(99))
	f.Left = f.FloodPerSecond / f.QuietPerSecond
	f.ColdQuietMs = milliseconds(max(quiet1.slowest, quiet2.slowest))
	f.ColdFloodMs = milliseconds(flooded.slowest)
	f.Answers, f.Unanswered, f.NoDial = byName(attacked.Answers), attacked.Unanswered, attacked.NoDial
	f.AttackPerSecond = float64(attacked.Sent) / attacked.Seconds
	f.AttackCPU, f.AttackBusy = attacked.CPU.Seconds()/attacked.Seconds, attacked.Busy
	b.results.Floods = append(b.results.Floods, f)
	b.log("   %s: %.0f/s quiet, %.0f/s flooded (%.2f), %d refused; %d of %d strangers refused, the slowest %.0f ms quiet, %.0f ms flooded\n"+
		"      attacker %.0f/s, %.2f cores, busy %.2f of the time: %v, %d not waited for, %d dials in vain", name, f.QuietPerSecond,
		f.FloodPerSecond, f.Left, f.Refused, f.ColdRefused, f.ColdAsked, f.ColdQuietMs, f.ColdFloodMs,
		f.AttackPerSecond, f.AttackCPU, f.AttackBusy, f.Answers, f.Unanswered, f.NoDial)
	return nil
}

// goodResult is what good clients were answered.
type goodResult struct {
	load.Result

	slowest time.Duration // of the strangers' answers
}

// good is the load of good clients: those that the token service knows, and a few that it has never seen. One that is
// refused is counted, and the others go on.
func (b *bench) good(ctx context.Context, f *report.Flood) (goodResult, error) {
	const warmup = time.Second
	window := 2 * b.length()
	strangers, err := b.rig.Seed(ctx, rig.Crowd{Name: "stranger", Count: int((warmup+window)/strangerEvery) + 1, Cost: serviceCost})
	if err != nil {
		return goodResult{}, err
	}
	var statuses tally
	running, err := load.Start(ctx, load.Plan{
		Address: b.rig.Public("token"), Connections: usualConnections, Requests: b.tokenRequests(b.agents[:someAgents]),
		Patience: window + time.Minute,
		Check: func(status int, body []byte) error {
			if checkToken(status, body) != nil {
				statuses.refused.Add(1)
				switch {
				case status == 401:
					statuses.unauthorized.Add(1)
				case status >= 500:
					statuses.unsure.Add(1)
				}
			}
			return nil
		},
	})
	if err != nil {
		return goodResult{}, err
	}
	visits := b.visit(ctx, strangers)
	waitErr := wait(ctx, running, warmup)
	if waitErr == nil {
		running.Measure()
		waitErr = wait(ctx, running, window)
		running.Pause()
	}
	seen := visits()
	result, err := running.Stop()
	b.answered[actionIssued] += result.Total - statuses.refused.Load() + seen.asked - seen.refused
	b.answered[actionAuthFailed] += statuses.unauthorized.Load() + seen.unauthorized
	b.unsure[actionIssued] += statuses.unsure.Load() + seen.unsure
	f.Refused += statuses.refused.Load()
	f.ColdAsked += seen.asked
	f.ColdRefused += seen.refused
	return goodResult{Result: result, slowest: seen.slowest}, firstOf(err, waitErr)
}

// tally is what became of good clients' requests; the other two are some of the refused. Unsure are those of which nobody
// knows whether they have left an event: the service says 503 also when it has sent one and was not told in time that it
// is stored.
type tally struct{ refused, unauthorized, unsure atomic.Int64 }

// visited is what strangers were answered.
type visited struct {
	asked, refused       int64 // the refused are some of the asked
	unauthorized, unsure int64 // as in a tally
	slowest              time.Duration
}

// visit has one good client after the other ask for its first token, each from an address of its own, whether or not the
// ones before have their answers; the func ends that and waits for those.
func (b *bench) visit(ctx context.Context, strangers []rig.Client) (end func() visited) {
	var (
		mu   sync.Mutex
		all  visited
		busy sync.WaitGroup
	)
	ask := func(n int) {
		host := b.rig.Public("token")
		sent := time.Now()
		status, body, err := load.Once(ctx, host, tokenRequest(host, strangers[n], from(address(11, int(b.strangers.Add(1))))), strangerPatience)
		took := time.Since(sent)
		mu.Lock()
		defer mu.Unlock()
		all.asked++
		all.slowest = max(all.slowest, took)
		switch {
		case err != nil:
			all.refused++
			all.unsure++
			b.log("   a stranger was not answered: %v", err)
		case checkToken(status, body) != nil:
			all.refused++
			switch {
			case status == 401:
				all.unauthorized++
			case status >= 500:
				all.unsure++
			}
			b.log("   a stranger was refused: %d %s", status, body)
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	stopped := make(chan struct{})
	busy.Go(func() {
		tick := time.NewTicker(strangerEvery)
		defer tick.Stop()
		for n := range strangers {
			busy.Go(func() { ask(n) })
			select {
			case <-stopped:
				return
			case <-tick.C:
			}
		}
	})
	return func() visited {
		close(stopped)
		busy.Wait()
		cancel()
		return all
	}
}

func ids(clients []rig.Client) []string {
	all := make([]string, 0, len(clients))
	for _, client := range clients {
		all = append(all, client.ID)
	}
	return slices.Clip(all)
}
