package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sentryagent/agentidp/test/bench/internal/rawsign"
	"github.com/sentryagent/agentidp/test/bench/internal/report"
	"github.com/sentryagent/agentidp/test/internal/proc"
	"github.com/sentryagent/agentidp/test/internal/rig"
)

// bench is one run.
type bench struct {
	options
	rig     *rig.Rig
	signer  *rawsign.Signer
	say     io.Writer
	stamp   string // of the files
	results report.Results

	agents   []rig.Client     // that warm tokens are measured with
	answered map[string]int64 // what loads were answered, by the action of the event that each answer must leave
	unsure   map[string]int64 // what nobody waited for: each of these may have left such an event
	mode     mode
	// strangers is how many of them have asked, each from an address of its own.
	strangers atomic.Int64
	// after is the signing rate after the last measurement, as long as nothing else has run since.
	after map[string]rawsign.Rate
}

// scenario is what -only chooses.
type scenario struct {
	name string
	run  func(*bench, context.Context) error
}

// scenarios in the order in which they run: what needs a restart of the token service comes last.
func scenarios() []scenario {
	return []scenario{
		{"startup", (*bench).startup},
		{"memory", (*bench).idleMemory},
		{"token-rs256", func(b *bench, ctx context.Context) error { return b.tokens(ctx, "RS256") }},
		{"profile", (*bench).profile},
		{"counts", (*bench).counts},
		{"introspect", (*bench).introspect},
		{"read", (*bench).read},
		{"jwks", (*bench).jwks},
		{"cold", (*bench).cold},
		{"crowd", (*bench).crowd},
		{"limits", (*bench).limits},
		{"token-es256", func(b *bench, ctx context.Context) error { return b.tokens(ctx, "ES256") }},
		{"token-eddsa", func(b *bench, ctx context.Context) error { return b.tokens(ctx, "EdDSA") }},
		{"flood", (*bench).flood},
		{"soak", (*bench).watchMemory},
	}
}

func scenarioNames() string {
	names := make([]string, 0, len(scenarios()))
	for _, s := range scenarios() {
		names = append(names, s.name)
	}
	return strings.Join(names, " ")
}

func (o options) wants(name string) bool {
	if o.only == "" {
		return true
	}
	for prefix := range strings.SplitSeq(o.only, ",") {
		if strings.HasPrefix(name, strings.TrimSpace(prefix)) {
			return true
		}
	}
	return false
}

func (b *bench) log(format string, args ...any) { _, _ = fmt.Fprintf(b.say, format+"\n", args...) }

func (b *bench) all(ctx context.Context) error {
	if err := b.populate(ctx); err != nil {
		return err
	}
	for _, s := range scenarios() {
		if !b.wants(s.name) {
			continue
		}
		b.log("== %s", s.name)
		if err := s.run(b, ctx); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		if err := b.rig.Alive(); err != nil {
			return err
		}
	}
	b.results.Measurements = report.Medians(b.results.Measurements)
	return b.balance(ctx)
}

// balance compares what was answered with the events that were stored: none may be missing, none may be double.
func (b *bench) balance(ctx context.Context) error {
	if _, err := b.rig.Settle(ctx, time.Minute); err != nil {
		return err
	}
	b.answered[actionIssued] += b.rig.TokensTaken()
	b.results.Audit = map[string]report.AuditBalance{}
	var failures []error
	for action, answered := range b.answered {
		stored, dead, err := b.rig.Events(ctx, action)
		if err != nil {
			return err
		}
		found := report.AuditBalance{Answered: answered, Unsure: b.unsure[action], Stored: stored}
		b.results.Audit[action] = found
		if !found.Even() || dead != 0 {
			failures = append(failures, fmt.Errorf("%d answers must have left an event %s, and %d more may have, %d were stored (and %d messages could not be)",
				answered, action, found.Unsure, stored, dead))
		}
	}
	return errors.Join(failures...)
}

func (b *bench) write(out io.Writer) error {
	if err := os.MkdirAll(b.out, 0o750); err != nil {
		return fmt.Errorf("directory for the results: %w", err)
	}
	b.results.Targets = report.Targets(&b.results)
	encoded, err := json.MarshalIndent(b.results, "", "  ")
	if err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	text := report.Markdown(&b.results)
	for name, content := range map[string][]byte{
		b.stamp + ".json": encoded, b.stamp + ".md": []byte(text),
	} {
		if err := os.WriteFile(filepath.Join(b.out, name), content, 0o600); err != nil {
			return fmt.Errorf("write the results: %w", err)
		}
	}
	_, _ = fmt.Fprintf(out, "%s\nwritten to %s/%s.{json,md}\n", text, b.out, b.stamp)
	return nil
}

func describeMachine(ctx context.Context, root string) report.Machine {
	m := report.Machine{Cores: runtime.NumCPU(), Go: runtime.Version()}
	if content, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		_, rest, _ := strings.Cut(string(content), "model name")
		line, _, _ := strings.Cut(rest, "\n")
		m.CPU = strings.Trim(line, "\t :")
	}
	m.Memory, _ = proc.TotalMemory(proc.Root)
	if content, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(content))
	}
	if content, err := os.ReadFile("/proc/loadavg"); err == nil {
		m.Load, _, _ = strings.Cut(string(content), " ")
	}
	cmd := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty")
	cmd.Dir = root
	if content, err := cmd.Output(); err == nil {
		m.Commit = strings.TrimSpace(string(content))
	}
	return m
}
