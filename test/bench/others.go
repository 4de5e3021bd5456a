package main

import (
	"bytes"
	"context"
	"fmt"
	"net/url"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/sentryagent/agentidp/test/bench/internal/report"
	"github.com/sentryagent/agentidp/test/internal/load"
	"github.com/sentryagent/agentidp/test/internal/rig"
)

// serviceCost is bcrypt's work factor in the credentials service.
const serviceCost = 10

// startup measures how long each service takes from the start of its process until it is ready.
func (b *bench) startup(ctx context.Context) error {
	b.results.Startup = map[string]float64{}
	for _, name := range rig.Services() {
		var took []float64
		for range b.rounds {
			if err := b.rig.StopService(name); err != nil {
				return err
			}
			duration, err := b.rig.StartService(ctx, name, nil)
			if err != nil {
				return err
			}
			took = append(took, milliseconds(duration))
		}
		b.results.Startup[name] = load.Median(took)
		b.log("   %s is ready after %.0f ms", name, b.results.Startup[name])
	}
	return nil
}

// idleMemory is what the services take when they have been started and nobody has asked for anything.
func (b *bench) idleMemory(ctx context.Context) error {
	idle := time.NewTimer(b.length())
	defer idle.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-idle.C:
	}
	memory, err := b.rig.Memory()
	b.results.Idle = memory
	return err
}

// counts counts what tokens cost the servers: while there are some, and in a time without any.
func (b *bench) counts(ctx context.Context) error {
	if err := b.serve(ctx, "RS256", nil); err != nil {
		return err
	}
	return b.countCalls(ctx, false)
}

func (b *bench) countCalls(ctx context.Context, limits bool) error {
	const tokens = 3000
	if err := b.warm(ctx, 1); err != nil {
		return err
	}
	if err := b.rig.ForgetStatements(ctx); err != nil {
		return err
	}
	before, err := b.rig.Count(ctx)
	if err != nil {
		return err
	}
	running, err := load.Start(ctx, load.Plan{
		Address: b.rig.Public("token"), Connections: usualConnections, Requests: b.tokenRequests(b.agents[:1]), Check: checkToken,
		Limit: tokens, Patience: 2 * time.Minute,
	})
	if err != nil {
		return err
	}
	result, err := running.Wait()
	b.answered[actionIssued] += result.Total
	if err != nil {
		return err
	}
	if _, err := b.rig.Settle(ctx, settleWithin); err != nil {
		return err
	}
	after, err := b.rig.Count(ctx)
	if err != nil {
		return err
	}
	counted := report.Counts{Limits: limits, Tokens: result.Total, Load: calls(before, after)}
	for _, role := range []string{"token_app", "registry_app", "credentials_app"} {
		queries, err := b.rig.Statements(ctx, role)
		if err != nil {
			return err
		}
		counted.Queries = append(counted.Queries, queries...)
	}
	idle := time.NewTimer(after.At.Sub(before.At))
	defer idle.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-idle.C:
	}
	later, err := b.rig.Count(ctx)
	counted.Idle = calls(after, later)
	b.results.Counts = append(b.results.Counts, counted)
	return err
}

func calls(from, to rig.Counters) report.ServerCalls {
	c := report.ServerCalls{
		Seconds: to.At.Sub(from.At).Seconds(), RedisReads: float64(to.RedisReads - from.RedisReads),
		Published: float64(to.AuditSeq - from.AuditSeq), Statements: map[string]float64{}, Commands: map[string]float64{},
	}
	for role, count := range to.Statements {
		c.Statements[role] = float64(count - from.Statements[role])
	}
	for command, count := range to.Redis {
		if more := count - from.Redis[command]; more > 0 && command != "info" {
			c.Commands[command] = float64(more)
		}
	}
	return c
}

func (b *bench) introspect(ctx context.Context) error {
	if err := b.serve(ctx, "RS256", nil); err != nil {
		return err
	}
	return b.introspectWith(ctx, false)
}

// introspectWith measures POST /token/introspect over the tokens of some agents, asked by a resource server.
func (b *bench) introspectWith(ctx context.Context, limits bool) error {
	bearer, err := b.rig.Token(ctx, b.rig.Operator(), "tokens:read")
	if err != nil {
		return err
	}
	requests := make([][]byte, someAgents)
	for i := range requests {
		token, err := b.rig.Token(ctx, b.agents[i], "agents:read")
		if err != nil {
			return err
		}
		requests[i] = request("POST", "/api/v1/token/introspect", b.rig.Public("token"),
			"Content-Type: application/x-www-form-urlencoded\r\nAuthorization: Bearer "+bearer+"\r\n", url.Values{"token": {token}}.Encode())
	}
	b.after = nil
	c := report.Case{Kind: report.KindIntrospect, Algorithm: "RS256", Connections: usualConnections, Agents: someAgents, Limits: limits}
	return b.compare(ctx, c, target{
		action: actionIntrospected, service: "token", requests: requests, warmup: 500 * time.Millisecond, window: b.length(),
		check: func(status int, body []byte) error {
			if status != 200 || !bytes.Contains(body, []byte(`"active":true`)) {
				return fmt.Errorf("the token is not active but %d %s", status, body)
			}
			return nil
		},
	})
}

// compare measures what is held against RS256 tokens in turn with them: a machine that changes its speed does not change it
// for all kinds of work alike. With limits nothing is held against them.
func (b *bench) compare(ctx context.Context, c report.Case, t target) error {
	for range b.rounds {
		if !c.Limits {
			if err := b.repeat(ctx, report.InTurnWith(c.Kind), b.tokenTarget(1), 1); err != nil {
				return err
			}
		}
		if err := b.repeat(ctx, c, t, 1); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) read(ctx context.Context) error {
	if err := b.serve(ctx, "RS256", nil); err != nil {
		return err
	}
	return b.readWith(ctx, false)
}

// readWith measures GET /agents/{agentId} with a bearer token.
func (b *bench) readWith(ctx context.Context, limits bool) error {
	bearer, err := b.rig.Token(ctx, b.rig.Operator(), "agents:read")
	if err != nil {
		return err
	}
	requests := make([][]byte, someAgents)
	for i := range requests {
		requests[i] = request("GET", "/api/v1/agents/"+b.agents[i].ID, b.rig.Public("registry"), "Authorization: Bearer "+bearer+"\r\n", "")
	}
	b.after = nil
	c := report.Case{Kind: report.KindRead, Algorithm: "RS256", Connections: usualConnections, Agents: someAgents, Limits: limits}
	return b.compare(ctx, c, target{
		service: "registry", requests: requests, warmup: 500 * time.Millisecond, window: b.length(),
		check: func(status int, body []byte) error {
			if status != 200 || !bytes.Contains(body, []byte(`"agentId":"`)) {
				return fmt.Errorf("no agent but %d %s", status, body)
			}
			return nil
		},
	})
}

// jwks measures GET /.well-known/jwks.json.
func (b *bench) jwks(ctx context.Context) error {
	c := report.Case{Kind: report.KindJWKS, Algorithm: "RS256", Connections: usualConnections}
	return b.repeat(ctx, c, target{
		service: "token", requests: [][]byte{request("GET", "/.well-known/jwks.json", b.rig.Public("token"), "", "")},
		warmup: 500 * time.Millisecond, window: b.length(),
		check: func(status int, body []byte) error {
			if status != 200 || !bytes.Contains(body, []byte(`"keys":[{`)) {
				return fmt.Errorf("no keys but %d %s", status, body)
			}
			return nil
		},
	}, 1)
}

// cold measures the first token of each agent: registry and credentials are asked, and bcrypt is computed once.
func (b *bench) cold(ctx context.Context) error {
	if err := b.serve(ctx, "RS256", nil); err != nil {
		return err
	}
	count := 150
	if b.quick {
		count = 30
	}
	var err error
	if b.results.RawBcrypt, err = rawBcrypt(2 * rawFor); err != nil {
		return err
	}
	clients, err := b.rig.Seed(ctx, rig.Crowd{Name: "cold", Count: count, Cost: serviceCost})
	if err != nil {
		return err
	}
	before, err := b.raw("RS256")
	if err != nil {
		return err
	}
	cpuBefore, err := b.rig.CPU()
	if err != nil {
		return err
	}
	running, err := load.Start(ctx, load.Plan{
		Address: b.rig.Public("token"), Connections: 8, Requests: b.tokenRequests(clients), Check: checkToken,
		Limit: int64(count), Patience: 2 * time.Minute,
	})
	if err != nil {
		return err
	}
	result, err := running.Wait()
	b.answered[actionIssued] += result.Total
	if err != nil {
		return err
	}
	if err := b.noteMemory(); err != nil {
		return err
	}
	cpuAfter, err := b.rig.CPU()
	if err != nil {
		return err
	}
	after, err := b.raw("RS256")
	if err != nil {
		return err
	}
	m := report.Measurement{
		Case: report.Case{Kind: report.KindCold, Algorithm: "RS256", Connections: 8, Agents: count}, Rounds: 1,
		RawRSA: mean(before["RS256"], after["RS256"]), RawOwn: mean(before["RS256"], after["RS256"]),
	}
	fill(&m, result, counted{before: rig.Counters{CPU: cpuBefore}, after: rig.Counters{CPU: cpuAfter}, done: result.Total})
	m.Ratio, m.StoredPerSecond = m.PerSecond/m.RawRSA.PerSecond, 0
	m.Drift = drift(before["RS256"], after["RS256"])
	b.results.Measurements = append(b.results.Measurements, m)
	b.log("%s", report.Line(m))
	return nil
}

// rawBcrypt is how many hashes this machine compares per second on all cores.
func rawBcrypt(duration time.Duration) (float64, error) {
	secret := []byte("sk_live_0000000000000000000000000000000000000000000000000000000000000000")
	hash, err := bcrypt.GenerateFromPassword(secret, serviceCost)
	if err != nil {
		return 0, fmt.Errorf("hash a secret: %w", err)
	}
	var made atomic.Int64
	var working sync.WaitGroup
	begin := time.Now()
	for range runtime.NumCPU() {
		working.Go(func() {
			for time.Since(begin) < duration {
				if bcrypt.CompareHashAndPassword(hash, secret) == nil {
					made.Add(1)
				}
			}
		})
	}
	working.Wait()
	return float64(made.Load()) / time.Since(begin).Seconds(), nil
}

// limits measures once more with rate limits and quotas counted, high enough that none is reached.
func (b *bench) limits(ctx context.Context) error {
	undo, err := b.serveLimited(ctx)
	if err != nil {
		return err
	}
	for _, part := range []func() error{
		func() error { return b.tokensWith(ctx, "RS256", true, []int{usualConnections}) },
		func() error { return b.countCalls(ctx, true) },
		func() error { return b.introspectWith(ctx, true) },
		func() error { return b.readWith(ctx, true) },
	} {
		if err := part(); err != nil {
			return err
		}
	}
	return undo()
}

// watchMemory watches the memory of everything under load, with rates and quotas counted as in production.
func (b *bench) watchMemory(ctx context.Context) error {
	if b.soak == 0 {
		return nil
	}
	const every = 10 * time.Second
	undo, err := b.serveLimited(ctx)
	if err != nil {
		return err
	}
	if err := b.warm(ctx, someAgents); err != nil {
		return err
	}
	running, err := load.Start(ctx, load.Plan{
		Address: b.rig.Public("token"), Connections: usualConnections, Requests: b.tokenRequests(b.agents[:someAgents]), Check: checkToken,
		Patience: b.soak + time.Minute,
	})
	if err != nil {
		return err
	}
	soak := report.NewSoak(every)
	for begin := time.Now(); err == nil && time.Since(begin) < b.soak; {
		if err = wait(ctx, running, every); err != nil {
			break
		}
		memory, readErr := b.rig.Memory()
		soak.Add(memory)
		b.results.UnderLoad = report.MergeMemory(b.results.UnderLoad, memory)
		b.log("   %s after %s", report.MemoryLine(memory), time.Since(begin).Round(time.Second))
		err = firstOf(readErr, b.rig.Alive())
	}
	result, loadErr := running.Stop()
	b.answered[actionIssued] += result.Total
	soak.Tokens = result.Total
	b.results.Soak = soak
	if err := firstOf(loadErr, err); err != nil {
		return err
	}
	return undo()
}
