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
	"runtime/metrics"
	"strconv"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/test/internal/load"
	"github.com/sentryagent/agentidp/test/internal/proc"
	"github.com/sentryagent/agentidp/test/internal/rig"
)

const (
	// attackCommand makes this program the attacker; it is not for people.
	attackCommand = "attack"
	// attackConnections are how many connections an attacker has of either kind: half of them wait for their answers,
	// half hang up soon, so that slow answers do not keep it from sending.
	attackConnections = 1000
	attackPatience    = 5 * time.Second
	attackHangUp      = 100 * time.Millisecond
	// attempts are how many different requests an attacker sends in turn.
	attempts = 20_000
)

// attackPlan is what an attacker is told on its standard input; it goes on until that ends.
type attackPlan struct {
	Address     string
	Host        string
	Real        []string // ids of agents that exist
	Connections int      // of either kind
	// Addresses is how many IP addresses the attempts seem to come from.
	Addresses int
}

// attackResult is what it says on its standard output.
type attackResult struct {
	load.Tally

	Seconds float64
	CPU     time.Duration
	// Busy is the share of the time in which it had something to do, whether or not it was given a core for it.
	Busy float64
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
	requests := attackRequests(plan)
	cpu, err := ownCPU()
	if err != nil {
		return err
	}
	idle, all := unused()
	begin := time.Now()
	storm, err := load.StartStorm(context.WithoutCancel(ctx), load.StormPlan{
		Address: plan.Address, Requests: requests, Patient: plan.Connections, Hasty: plan.Connections,
		Patience: attackPatience, HangUp: attackHangUp,
	})
	if err != nil {
		return err
	}
	<-ctx.Done()
	result := attackResult{Seconds: time.Since(begin).Seconds()}
	idleThen, allThen := unused()
	cpuThen, err := ownCPU()
	result.Tally = storm.Stop()
	result.CPU = cpuThen - cpu
	result.Busy = 1 - (idleThen-idle)/max(allThen-all, 1e-9)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(result)
}

// ownCPU is 0 where there is no proc filesystem.
func ownCPU() (time.Duration, error) {
	if runtime.GOOS != "linux" {
		return 0, nil
	}
	return proc.CPU(proc.Root, os.Getpid())
}

// unused is how many seconds nothing in this process could go on, of all seconds that it could have used, so far. A
// thread that waits for a core counts as used, so these tell a program without work from one that the others crowd out.
func unused() (idle, all float64) {
	runtime.GC() // the figures are those of the last collection
	samples := []metrics.Sample{{Name: "/cpu/classes/idle:cpu-seconds"}, {Name: "/cpu/classes/total:cpu-seconds"}}
	metrics.Read(samples)
	return samples[0].Value.Float64(), samples[1].Value.Float64()
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
		requests[i] = tokenRequest(plan.Host, client, from(address(10, i%max(plan.Addresses, 1))))
	}
	return requests
}

// from is the header line by which a proxy says whom a request comes from.
func from(address string) string { return "X-Forwarded-For: " + address + "\r\n" }

// address is the n-th address of a /8.
func address(net8 byte, n int) string {
	return net.IPv4(net8, byte(n>>16), byte(n>>8), byte(n)).String() //nolint:gosec // less than 2^24
}

// byName are answers by status, as JSON names them.
func byName(answers map[int]int64) map[string]int64 {
	named := make(map[string]int64, len(answers))
	for status, count := range answers {
		named[strconv.Itoa(status)] = count
	}
	return named
}
