// Command fault runs the real programs, two replicas of each service, puts a load of clients on them, and ends, freezes
// and empties them and their servers as a schedule says that follows from a seed. Then it balances the books: what
// clients saw acknowledged must stand in the audit trail exactly once and as it was, what did not happen must not, and
// what nobody is sure of at most once. Run it by `make fault`. It must not judge how fast anything is.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
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

// replicas of each service.
const replicas = 2

type options struct {
	duration time.Duration
	seed     uint64
	keep     bool
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
	// Limits that nobody reaches are counted all the same, as in production.
	r.rig, err = rig.Start(ctx, rig.Config{Root: root, Dir: dir, Out: out, Replicas: replicas, Settings: rig.LimitsOn()})
	if err == nil {
		err = r.everything(ctx)
	}
	return errors.Join(err, r.rig.Stop())
}
