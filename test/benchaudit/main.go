// Command benchaudit measures the audit service with a long trail: lists, proofs and exports over millions of events in
// daily partitions, and how fast events come through JetStream into it. It runs the real programs with real servers, all on
// this machine, and fills the trail from a seed. Run it by `make bench-audit`; docs/performance.md says how to read it.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/sentryagent/agentidp/test/internal/proc"
	"github.com/sentryagent/agentidp/test/internal/rig"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-audit:", err)
		os.Exit(1)
	}
}

// options are what the command line says.
type options struct {
	events, days int
	seed         uint64
	seconds      float64
	out          string
}

func parseOptions(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("bench-audit", flag.ContinueOnError)
	flags.IntVar(&o.events, "events", 10_000_000, "events to fill the trail with")
	flags.IntVar(&o.days, "days", 90, "days they are spread over, the last of them today; 1 to 90")
	flags.Uint64Var(&o.seed, "seed", 1, "of the events: the same seed makes the same ones, but for their days")
	flags.Float64Var(&o.seconds, "seconds", 2, "length of one measurement of lists; ingest takes ten times as long")
	flags.StringVar(&o.out, "out", "", "directory for the results (default bench/results in the source tree)")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	switch {
	case flags.NArg() > 0:
		return o, fmt.Errorf("unknown argument %q", flags.Arg(0))
	case o.days < 1 || o.days > 90:
		return o, fmt.Errorf("-days must be 1 to 90, which is the retention window")
	case o.events < 1000*o.days:
		return o, fmt.Errorf("-events must be at least a thousand per day")
	case o.seconds <= 0:
		return o, fmt.Errorf("-seconds must be positive")
	}
	return o, nil
}

// bench is one run.
type bench struct {
	options

	rig     *rig.Rig
	say     io.Writer
	token   string // of the operator
	filled  filled
	results results
}

func (b *bench) log(format string, args ...any) { _, _ = fmt.Fprintf(b.say, format+"\n", args...) }

func run(ctx context.Context, args []string) error {
	o, err := parseOptions(args)
	if err != nil {
		return err
	}
	root, err := rig.FindRoot()
	if err != nil {
		return err
	}
	if o.out == "" {
		o.out = filepath.Join(root, "bench", "results")
	}
	memory, err := proc.TotalMemory(proc.Root)
	if err != nil {
		return err
	}
	b := &bench{options: o, say: os.Stderr, results: results{Started: time.Now().UTC(), Seed: o.seed, PostgresBuffers: memory / 4}}
	err = rig.Run(ctx, rig.Config{Root: root, Out: os.Stderr, PostgresBuffers: b.results.PostgresBuffers}, func(r *rig.Rig) error {
		b.rig = r
		return b.all(ctx)
	})
	if err != nil {
		return err
	}
	b.results.Took = time.Since(b.results.Started).Round(time.Second).String()
	return b.write(os.Stdout)
}

// all is the run: what is measured stands on what was filled.
func (b *bench) all(ctx context.Context) error {
	if _, err := b.rig.Settle(ctx, time.Minute); err != nil {
		return err
	}
	if err := b.rig.StopService("audit"); err != nil {
		return err
	}
	for _, step := range []struct {
		says string
		do   func(context.Context) error
	}{
		{"measuring COPY", b.rawCopy},
		{fmt.Sprintf("filling the trail with %d events", b.events), b.fill},
		{"starting the services", b.restart},
		{"lists", b.lists},
		{"proofs", b.proofs},
		{"exports", b.exports},
		{"ingest", b.ingest},
		{"lag", b.lag},
		{"verifying what was stored", b.verify},
	} {
		b.log("== %s", says(step.says))
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.says, err)
		}
	}
	return b.rig.Alive()
}

func says(text string) string { return time.Now().UTC().Format("15:04:05 ") + text }

// restart replaces all services: those that ran while the trail was filled have connections to a Postgres that was
// killed since, and answer the first requests on these with 503.
func (b *bench) restart(ctx context.Context) error {
	for _, service := range rig.Services() {
		if err := b.rig.Restart(ctx, service, nil); err != nil {
			return err
		}
	}
	var err error
	b.token, err = b.rig.Token(ctx, b.rig.Operator(), "audit:read")
	return err
}

func (b *bench) write(out io.Writer) error {
	if err := os.MkdirAll(b.out, 0o750); err != nil {
		return fmt.Errorf("directory for the results: %w", err)
	}
	b.results.judge()
	encoded, err := json.MarshalIndent(b.results, "", "  ")
	if err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	text, stamp := b.results.markdown(), "audit-"+b.results.Started.Format("20060102T150405Z")
	for name, content := range map[string][]byte{stamp + ".json": encoded, stamp + ".md": []byte(text)} {
		if err := os.WriteFile(filepath.Join(b.out, name), content, 0o600); err != nil {
			return fmt.Errorf("write the results: %w", err)
		}
	}
	_, _ = fmt.Fprintf(out, "%s\nwritten to %s/%s.{json,md}\n", text, b.out, stamp)
	return nil
}
