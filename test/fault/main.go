// Command fault runs the real programs, two replicas of each service, puts a load of clients on them, and ends, freezes
// and empties them and their servers as a schedule says that follows from a seed. Then it balances the books: what
// clients saw acknowledged must stand in the audit trail exactly once and as it was, what did not happen must not, and
// what nobody is sure of at most once; and all that stands there must have gone onward. Run it by `make fault`. It must
// not judge how fast anything is.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/sentryagent/agentidp/test/internal/rig"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "fault:", err)
		os.Exit(1)
	}
}

func command(ctx context.Context, args []string, out io.Writer) error {
	o := options{}
	flags := flag.NewFlagSet("fault", flag.ContinueOnError)
	flags.DurationVar(&o.duration, "duration", 2*time.Minute, "how long the load and the faults last")
	flags.Uint64Var(&o.seed, "seed", 0, "of the schedule and of what clients do; 0 takes one from the clock")
	flags.BoolVar(&o.keep, "keep", false, "keep logs and data also when the books balance")
	flags.BoolVar(&o.roll, "roll", false, "replace and scale the services under a load of which nothing may fail, instead of faults")
	flags.DurationVar(&o.how.drain, "drain-delay", drainDelay, "with -roll: DRAIN_DELAY of the services; 0s must fail")
	flags.BoolVar(&o.how.kill, "kill", false, "with -roll: end replicas by SIGKILL; must fail")
	flags.StringVar(&o.programs, "programs", "", "directory with the programs of an earlier run, or for them; they are built anew otherwise")
	show := flags.Bool("show", false, "only show the schedule")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unknown argument %q", flags.Arg(0))
	}
	if o.seed == 0 {
		o.seed = uint64(time.Now().UnixNano()) % 1_000_000 // #nosec G115 -- positive until 2262
	}
	if *show {
		_, _ = fmt.Fprintf(out, "seed %d, %s\n", o.seed, o.duration)
		list(out, plan(o.seed, o.duration, everyTarget(rig.Names(replicas))))
		return nil
	}
	return o.run(ctx, out)
}

const (
	// replicas of each service beside faults. What is rolled starts with one, so that all of the load has to move.
	replicas = 2
	// drainDelay is the services' default.
	drainDelay = 3 * time.Second
)

type options struct {
	duration time.Duration
	seed     uint64
	keep     bool
	roll     bool
	how      rolling
	programs string // where they are built; "" is in the directory of the run
}

// run starts a rig and does everything on it. Logs and data are kept where something is wrong.
func (o options) run(ctx context.Context, out io.Writer) (err error) {
	root, err := rig.FindRoot()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "agentidp-fault-")
	if err != nil {
		return fmt.Errorf("directory for the run: %w", err)
	}
	defer func() {
		if err == nil && !o.keep {
			err = os.RemoveAll(dir)
			return
		}
		_, _ = fmt.Fprintf(out, "logs and data of this run: %s\n", dir)
	}()
	r := &run{seed: o.seed, duration: o.duration, out: out}
	cfg := rig.Config{Root: root, Dir: dir, Programs: o.programs, Out: out}
	do := r.everything
	if o.roll {
		cfg.Proxy, cfg.Settings = true, limited()
		cfg.Settings["DRAIN_DELAY"] = o.how.drain.String()
		do = func(ctx context.Context) error { return r.roll(ctx, o.how) }
	} else {
		// Limits that nobody reaches are counted all the same, as in production.
		cfg.Replicas, cfg.Settings = replicas, rig.LimitsOn()
	}
	cfg.Settings["AUDIT_STREAM_MAX_BYTES"] = strconv.Itoa(onwardBytes)
	r.rig, err = rig.Start(ctx, cfg)
	if err == nil {
		err = do(ctx)
	}
	return errors.Join(err, r.rig.Stop())
}
