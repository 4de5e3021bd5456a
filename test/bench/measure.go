package main

import (
	"context"
	"fmt"
	"net/url"
	"runtime"
	"strings"
	"time"

	"github.com/sentryagent/agentidp/test/bench/internal/rawsign"
	"github.com/sentryagent/agentidp/test/bench/internal/report"
	"github.com/sentryagent/agentidp/test/internal/load"
	"github.com/sentryagent/agentidp/test/internal/rig"
)

const (
	// rawFor is how long the machine's own signing rate is measured before and after each measurement.
	rawFor = 400 * time.Millisecond
	// settleWithin is how long the audit service may need to catch up after a measurement.
	settleWithin = 60 * time.Second
)

// tokenRequest is POST /token as bytes.
func tokenRequest(host string, client rig.Client, header string) []byte {
	body := url.Values{
		"grant_type": {"client_credentials"}, "client_id": {client.ID}, "client_secret": {client.Secret}, "scope": {"agents:read"},
	}.Encode()
	return request("POST", "/api/v1/token", host, "Content-Type: application/x-www-form-urlencoded\r\n"+header, body)
}

// request is an HTTP/1.1 request as bytes; header are whole lines.
func request(method, path, host, header, body string) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: agentidp-bench\r\n%s", method, path, host, header)
	if method == "POST" {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(body))
	}
	return []byte(b.String() + "\r\n" + body)
}

// raw measures the machine's own signing rates, or takes those that were measured a moment ago.
func (b *bench) raw(algorithm string) (map[string]rawsign.Rate, error) {
	rates := map[string]rawsign.Rate{}
	for _, alg := range []string{"RS256", algorithm} {
		if _, measured := rates[alg]; measured {
			continue
		}
		rate, err := b.signer.Measure(alg, rawFor)
		if err != nil {
			return nil, err
		}
		rates[alg] = rate
	}
	return rates, nil
}

func mean(x, y rawsign.Rate) rawsign.Rate {
	return rawsign.Rate{PerSecond: (x.PerSecond + y.PerSecond) / 2, CPUms: (x.CPUms + y.CPUms) / 2}
}

// drift is by which share the faster of two rates is above the slower one.
func drift(x, y rawsign.Rate) float64 {
	if x.PerSecond == 0 || y.PerSecond == 0 {
		return 0
	}
	return max(x.PerSecond, y.PerSecond)/min(x.PerSecond, y.PerSecond) - 1
}

// The actions of the events whose number is known from the answers.
const (
	actionIssued       = "token.issued"
	actionIntrospected = "token.introspected"
	actionAuthFailed   = "auth.failed"
)

// target is what a load is put on.
type target struct {
	action   string // of the event that every answer leaves; "" for none
	service  string
	requests [][]byte
	check    func(status int, body []byte) error
	verify   func(ctx context.Context, samples [][]byte) error // may be nil
	warmup   time.Duration
	window   time.Duration
	during   func(ctx context.Context) error // runs beside the measurement; may be nil
}

// measure puts a load on a service between two measurements of the machine's signing rate.
func (b *bench) measure(ctx context.Context, c report.Case, t target) (report.Measurement, error) {
	m := report.Measurement{Case: c, Rounds: 1}
	before := b.after
	if before[c.Algorithm].PerSecond == 0 {
		var err error
		if before, err = b.raw(c.Algorithm); err != nil {
			return m, err
		}
	}
	b.after = nil
	running, err := load.Start(ctx, load.Plan{
		Address: b.rig.Public(t.service), Connections: c.Connections, Requests: t.requests, Check: t.check,
		Sample: 500, Patience: t.warmup + t.window + 2*time.Minute,
	})
	if err != nil {
		return m, err
	}
	counted, err := b.window(ctx, running, t)
	result, loadErr := running.Stop()
	if t.action != "" {
		b.answered[t.action] += result.Total
	}
	if err != nil || loadErr != nil {
		return m, fmt.Errorf("%s, %d connections, %d agents: %w", c.Kind, c.Connections, c.Agents, firstOf(loadErr, err))
	}
	settled, err := b.rig.Settle(ctx, settleWithin)
	if err != nil {
		return m, err
	}
	if t.verify != nil {
		if err := t.verify(ctx, result.Samples); err != nil {
			return m, err
		}
	}
	after, err := b.raw(c.Algorithm)
	if err != nil {
		return m, err
	}
	b.after = after
	fill(&m, result, counted)
	m.RawRSA, m.RawOwn = mean(before["RS256"], after["RS256"]), mean(before[c.Algorithm], after[c.Algorithm])
	m.Ratio = m.PerSecond / m.RawRSA.PerSecond
	m.Drift = drift(before["RS256"], after["RS256"])
	m.Stolen = (counted.after.Stolen - counted.before.Stolen).Seconds() / counted.after.At.Sub(counted.before.At).Seconds() / float64(runtime.NumCPU())
	m.SettleMs = milliseconds(settled)
	b.log("%s", report.Line(m))
	return m, nil
}

// counted is what the counters said at both ends of a window.
type counted struct {
	before, after rig.Counters
	done          int64 // requests between the two
}

// window lets a load warm up and counts for a while.
func (b *bench) window(ctx context.Context, running *load.Load, t target) (counted, error) {
	var c counted
	if err := wait(ctx, running, t.warmup); err != nil {
		return c, err
	}
	var err error
	if c.before, err = b.rig.Count(ctx); err != nil {
		return c, err
	}
	c.done = -running.Done()
	running.Measure()
	if t.during != nil {
		err = t.during(ctx)
	} else {
		err = wait(ctx, running, t.window)
	}
	running.Pause()
	if err != nil {
		return c, err
	}
	c.done += running.Done()
	if c.after, err = b.rig.Count(ctx); err != nil {
		return c, err
	}
	return c, b.noteMemory()
}

// noteMemory keeps the most memory that each process has had so far. A process that is replaced takes its peak with it,
// so this is done after everything that puts a load on one.
func (b *bench) noteMemory() error {
	memory, err := b.rig.Memory()
	b.results.UnderLoad = report.MergeMemory(b.results.UnderLoad, memory)
	return err
}

// wait lets a load run.
func wait(ctx context.Context, running *load.Load, duration time.Duration) error {
	end := time.NewTimer(duration)
	defer end.Stop()
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-end.C:
			return nil
		case <-look.C:
			if running.Failed() {
				return fmt.Errorf("the load has ended by itself")
			}
		}
	}
}

func fill(m *report.Measurement, result load.Result, c counted) {
	m.Seconds, m.Answered = result.Elapsed.Seconds(), result.Answered
	m.PerSecond = result.PerSecond()
	m.P50ms = milliseconds(result.Latencies.Percentile(50))
	m.P95ms = milliseconds(result.Latencies.Percentile(95))
	m.P99ms = milliseconds(result.Latencies.Percentile(99))
	m.CPUms = map[string]float64{}
	for name, after := range c.after.CPU {
		per := milliseconds(after-c.before.CPU[name]) / float64(max(c.done, 1))
		m.CPUms[name] = per
		m.CPUAllMs += per
	}
	m.Behind = int64(c.after.Waiting) - int64(c.before.Waiting) //nolint:gosec // of one run
	m.StoredPerSecond = float64(c.after.Stored-c.before.Stored) / c.after.At.Sub(c.before.At).Seconds()
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
