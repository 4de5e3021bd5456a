// Command bench measures the system as it is built: the real programs as processes, with real servers, under a closed
// loop of clients, all on this machine; and it holds what it finds against the machine's own signing rate. Run it by
// `make bench`; docs/performance.md explains what is measured and how to read it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/sentryagent/agentidp/test/bench/internal/rawsign"
	"github.com/sentryagent/agentidp/test/bench/internal/report"
	"github.com/sentryagent/agentidp/test/internal/rig"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) > 0 && args[0] == attackCommand {
		return attack(ctx, os.Stdin, os.Stdout)
	}
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
	signer, err := rawsign.New(runtime.NumCPU())
	if err != nil {
		return err
	}
	b := &bench{
		options: o, signer: signer, say: os.Stderr, stamp: time.Now().UTC().Format("20060102T150405Z"),
		answered: map[string]int64{actionIssued: 0}, unsure: map[string]int64{}, mode: mode{algorithm: "RS256"},
	}
	b.results = report.Results{Started: time.Now().UTC(), Quick: o.quick, Machine: describeMachine(ctx, root)}

	err = rig.Run(ctx, rig.Config{Root: root, Out: os.Stderr, CountStatements: true}, func(r *rig.Rig) error {
		b.rig = r
		return b.all(ctx)
	})
	if err != nil {
		return err
	}
	b.results.Took = time.Since(b.results.Started).Round(time.Second).String()
	return b.write(os.Stdout)
}

// options are what the command line says.
type options struct {
	only        string
	quick       bool
	seconds     float64
	rounds      int
	connections int
	agents      int
	soak        time.Duration
	out         string
}

func parseOptions(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&o.only, "only", "", "run only the scenarios whose names begin with one of these, comma separated: "+scenarioNames())
	flags.BoolVar(&o.quick, "quick", false, "shorter measurements, fewer rounds, fewer agents")
	flags.Float64Var(&o.seconds, "seconds", 0, "length of one measurement (default 3, quick 1)")
	flags.IntVar(&o.rounds, "rounds", 0, "how often what targets stand on is measured (default 3, quick 1)")
	flags.IntVar(&o.connections, "conns", 0, "only measure tokens with so many connections")
	flags.IntVar(&o.agents, "agents", 0, "only measure tokens over so many agents")
	flags.DurationVar(&o.soak, "soak", 0, "also watch the memory under load for so long, such as 10m")
	flags.StringVar(&o.out, "out", "", "directory for the results (default bench/results in the source tree)")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unknown argument %q", flags.Arg(0))
	}
	if !slices.ContainsFunc(scenarios(), func(s scenario) bool { return o.wants(s.name) }) {
		return o, fmt.Errorf("-only %s chooses nothing of: %s", o.only, scenarioNames())
	}
	if o.seconds == 0 {
		o.seconds = 3
		if o.quick {
			o.seconds = 1
		}
	}
	if o.rounds == 0 {
		o.rounds = 3
		if o.quick {
			o.rounds = 1
		}
	}
	return o, nil
}
