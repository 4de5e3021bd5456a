package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/sentryagent/agentidp/test/bench/internal/load"
	"github.com/sentryagent/agentidp/test/bench/internal/profiles"
	"github.com/sentryagent/agentidp/test/bench/internal/report"
	"github.com/sentryagent/agentidp/test/bench/internal/rig"
)

// crowdCost is bcrypt's work factor for the agents of warm measurements: warm is what comes after bcrypt, and ten
// thousand agents at the service's own factor, 10, are ten minutes of it.
const crowdCost = 4

// populate inserts the agents that tokens are measured with.
func (b *bench) populate(ctx context.Context) (err error) {
	count := 10_000
	if b.quick {
		count = 1_000
	}
	b.agents, err = b.rig.Seed(ctx, rig.Crowd{Name: "warm", Count: count, Cost: crowdCost})
	return err
}

func checkToken(status int, body []byte) error {
	if status != 200 || !bytes.Contains(body, []byte(`"access_token":"ey`)) {
		return fmt.Errorf("no token but %d %s", status, body)
	}
	return nil
}

func (b *bench) tokenRequests(agents int) [][]byte {
	requests := make([][]byte, agents)
	for i := range requests {
		requests[i] = tokenRequest(b.rig.Public("token"), b.agents[i], "")
	}
	return requests
}

// warm gets one token for each agent, so that the service knows all of them.
func (b *bench) warm(ctx context.Context, agents int) error {
	running, err := load.Start(ctx, load.Plan{
		Address: b.rig.Public("token"), Connections: 16, Requests: b.tokenRequests(agents), Check: checkToken,
		Limit: int64(agents), Patience: 5 * time.Minute,
	})
	if err != nil {
		return err
	}
	result, err := running.Wait()
	b.answered += result.Total
	if err != nil {
		return fmt.Errorf("warm up: %w", err)
	}
	_, err = b.rig.Settle(ctx, settleWithin)
	return err
}

func (b *bench) tokenTarget(agents int) target {
	return target{
		service: "token", requests: b.tokenRequests(agents), check: checkToken,
		warmup: 500 * time.Millisecond, window: time.Duration(b.seconds * float64(time.Second)),
	}
}

// tokens measures warm tokens of one algorithm.
func (b *bench) tokens(ctx context.Context, algorithm string) error {
	for _, agents := range []int{1, 100, len(b.agents)} {
		if b.options.agents > 0 && agents != b.options.agents {
			continue
		}
		if err := b.warm(ctx, agents); err != nil {
			return err
		}
		for _, connections := range []int{32, 1, 8, 128} {
			if b.options.connections > 0 && connections != b.options.connections {
				continue
			}
			c := report.Case{Kind: report.KindToken, Algorithm: algorithm, Connections: connections, Agents: agents}
			rounds := 1
			if connections == 32 {
				rounds = b.rounds
			}
			for range rounds {
				m, err := b.measure(ctx, c, b.tokenTarget(agents))
				if err != nil {
					return err
				}
				b.results.Measurements = append(b.results.Measurements, m)
			}
		}
	}
	return nil
}

// profile takes a CPU profile of the token service.
func (b *bench) profile(ctx context.Context) error {
	if err := b.warm(ctx, 1); err != nil {
		return err
	}
	t := b.tokenTarget(1)
	var taken []byte
	t.during = func(ctx context.Context) (err error) {
		taken, err = b.rig.Profile(ctx, "token", max(2, int(3*b.seconds)))
		return err
	}
	c := report.Case{Kind: report.KindToken, Algorithm: "RS256", Connections: 32, Agents: 1}
	if _, err := b.measure(ctx, c, t); err != nil {
		return err
	}
	split, err := profiles.Parse(taken)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(b.out, 0o750); err != nil {
		return err
	}
	file := b.stamp + ".token.pb.gz"
	b.results.Profile = &report.Profile{Case: c, Share: split.Share, Rest: split.Rest, File: file}
	b.log("   %v\n   rest: %v", split.Share, split.Rest)
	return os.WriteFile(filepath.Join(b.out, file), taken, 0o600)
}
