package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/test/bench/internal/load"
	"github.com/sentryagent/agentidp/test/bench/internal/proc"
	"github.com/sentryagent/agentidp/test/bench/internal/report"
	"github.com/sentryagent/agentidp/test/bench/internal/rig"
)

const (
	// attackCommand makes this program the attacker; it is not for people.
	attackCommand = "attack"
	// attackConnections are as many as one core can keep busy; more of them do not send more.
	attackConnections = 256
	// attempts are how many different requests an attacker sends in turn.
	attempts = 20_000
)

// attackPlan is what an attacker is told on its standard input; it goes on until that ends.
type attackPlan struct {
	Address string
	Host    string
	Real    []string // ids of agents that exist
	// Addresses is how many IP addresses the attempts seem to come from.
	Addresses int
}

// attackResult is what it says on its standard output.
type attackResult struct {
	Answers map[string]int
	Seconds float64
	CPU     time.Duration
}

// flood measures what good clients notice of one process that sends wrong secrets as fast as one core can. The limits of
// failures are those of production.
func (b *bench) flood(ctx context.Context) error {
	if err := b.serve(ctx, "RS256", nil); err != nil {
		return err
	}
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
	return nil
}

func (b *bench) floodOnce(ctx context.Context, name string, addresses int) error {
	window := 2 * b.length()
	f := report.Flood{Name: name, Answers: map[string]int{}}
	quiet1, err := b.good(ctx, window, &f)
	if err != nil {
		return err
	}
	stop, err := b.startAttack(ctx, attackPlan{
		Address: b.rig.Public("token"), Host: b.rig.Public("token"), Real: ids(b.agents[:someAgents]), Addresses: addresses,
	})
	if err != nil {
		return err
	}
	flooded, err := b.good(ctx, window, &f)
	attacked, stopErr := stop()
	if err := errors.Join(err, stopErr); err != nil {
		return err
	}
	b.answered[actionAuthFailed] += int64(attacked.Answers["401"])
	if _, err := b.rig.Settle(ctx, 2*settleWithin); err != nil {
		return err
	}
	quiet2, err := b.good(ctx, window, &f)
	if err != nil {
		return err
	}
	f.QuietPerSecond = (quiet1.PerSecond() + quiet2.PerSecond()) / 2
	f.QuietP99ms = milliseconds(max(quiet1.Latencies.Percentile(99), quiet2.Latencies.Percentile(99)))
	f.FloodPerSecond, f.FloodP99ms = flooded.PerSecond(), milliseconds(flooded.Latencies.Percentile(99))
	f.Left = f.FloodPerSecond / f.QuietPerSecond
	f.Answers = attacked.Answers
	for _, count := range attacked.Answers {
		f.AttackPerSecond += float64(count) / attacked.Seconds
	}
	f.AttackCPU = attacked.CPU.Seconds() / attacked.Seconds
	b.results.Floods = append(b.results.Floods, f)
	b.log("   %s: %.0f/s quiet, %.0f/s flooded (%.2f), %d refused; attacker %.0f/s %v", name, f.QuietPerSecond, f.FloodPerSecond,
		f.Left, f.Refused, f.AttackPerSecond, f.Answers)
	return nil
}

// good is the load of good clients. One that is refused is counted and goes on.
func (b *bench) good(ctx context.Context, window time.Duration, f *report.Flood) (load.Result, error) {
	var refused atomic.Int64
	running, err := load.Start(ctx, load.Plan{
		Address: b.rig.Public("token"), Connections: usualConnections, Requests: b.tokenRequests(b.agents[:someAgents]),
		Patience: window + time.Minute,
		Check: func(status int, body []byte) error {
			if checkToken(status, body) != nil {
				refused.Add(1)
			}
			return nil
		},
	})
	if err != nil {
		return load.Result{}, err
	}
	waitErr := wait(ctx, running, time.Second)
	if waitErr == nil {
		running.Measure()
		waitErr = wait(ctx, running, window)
		running.Pause()
	}
	result, err := running.Stop()
	b.answered[actionIssued] += result.Total - refused.Load()
	f.Refused += refused.Load()
	return result, firstOf(err, waitErr)
}

// startAttack starts an attacker as a process on one core; stop ends it and answers what it did.
func (b *bench) startAttack(ctx context.Context, plan attackPlan) (stop func() (attackResult, error), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, attackCommand) // #nosec G204 -- this program
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	cmd.Stderr = os.Stderr
	// A Ctrl-C in the terminal is for this program, which ends the attacker.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	input, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the attacker: %w", err)
	}
	sendErr := json.NewEncoder(input).Encode(plan)
	return func() (attackResult, error) {
		var result attackResult
		_ = input.Close()
		readErr := json.NewDecoder(output).Decode(&result)
		return result, errors.Join(sendErr, readErr, cmd.Wait())
	}, sendErr
}

// attack is the attacker's side.
func attack(ctx context.Context, in io.Reader, out io.Writer) error {
	var plan attackPlan
	decoder := json.NewDecoder(in)
	if err := decoder.Decode(&plan); err != nil {
		return fmt.Errorf("read the plan: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // until the input ends, also when whoever holds its other end was killed
		_, _ = io.Copy(io.Discard, io.MultiReader(decoder.Buffered(), in))
		cancel()
	}()
	var mu sync.Mutex
	answers := map[string]int{}
	running, err := load.Start(context.WithoutCancel(ctx), load.Plan{
		Address: plan.Address, Connections: attackConnections, Requests: attackRequests(plan), Patience: 10 * time.Minute,
		Check: func(status int, _ []byte) error {
			mu.Lock()
			defer mu.Unlock()
			answers[strconv.Itoa(status)]++
			return nil
		},
	})
	if err != nil {
		return err
	}
	begin := time.Now()
	<-ctx.Done()
	_, err = running.Stop()
	result := attackResult{Answers: answers, Seconds: time.Since(begin).Seconds()}
	if err != nil {
		return err
	}
	if result.CPU, err = proc.CPU(proc.Root, os.Getpid()); err != nil && runtime.GOOS == "linux" {
		return err
	}
	return json.NewEncoder(out).Encode(result)
}

// attackRequests are attempts with secrets that are well formed and wrong, half of them for agents that exist.
func attackRequests(plan attackPlan) [][]byte {
	requests := make([][]byte, attempts)
	for i := range requests {
		var random [32]byte
		_, _ = rand.Read(random[:])
		client := rig.Client{ID: uuid.NewString(), Secret: "sk_live_" + hex.EncodeToString(random[:])}
		if i%2 == 0 && len(plan.Real) > 0 {
			client.ID = plan.Real[i/2%len(plan.Real)]
		}
		requests[i] = tokenRequest(plan.Host, client, "X-Forwarded-For: "+address(i%max(plan.Addresses, 1))+"\r\n")
	}
	return requests
}

// address is the n-th address of 10.0.0.0/8.
func address(n int) string { return net.IPv4(10, byte(n>>16), byte(n>>8), byte(n)).String() } //nolint:gosec // less than 2^24

func ids(clients []rig.Client) []string {
	all := make([]string, 0, len(clients))
	for _, client := range clients {
		all = append(all, client.ID)
	}
	return slices.Clip(all)
}
