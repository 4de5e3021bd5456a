package replica

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/sentryagent/agentidp/pkg/config"
)

// Program is what the program of a service can be told to do. Whether the copy that runs beside it is alive, or can answer, it
// asks by itself.
type Program struct {
	// Service is the service's name.
	Service string
	Serve   func(context.Context) error
	// Migrate is what is done instead of this package's Migrate; nil where that is all.
	Migrate func(context.Context, ...config.Option) error
	// More are the commands that this service alone has.
	More []Command
}

// service is what a face's New makes.
type service interface {
	Run(ctx context.Context) error
}

// Serving is the Serve of a service, which takes its settings from the environment.
func Serving[C any, S service](
	load func(...config.Option) (C, error), newService func(context.Context, C) (S, error),
) func(context.Context) error {
	return func(ctx context.Context) error {
		cfg, err := load()
		if err != nil {
			return err
		}
		made, err := newService(ctx, cfg)
		if err != nil {
			return err
		}
		return made.Run(ctx)
	}
}

// Command is one of the commands that a service alone has.
type Command struct {
	Name string
	// Usage tells of it in the help, in lines that begin with its name.
	Usage string
	// TakesArguments is false for a command that is refused with any.
	TakesArguments bool
	// Run gets what follows the name, and writes what came of it to out.
	Run func(ctx context.Context, out io.Writer, args []string) error
}

// Main is all that the main function of a service's program does: what the command line says, until SIGINT or SIGTERM. Where
// that fails it ends the process with status 1.
func Main(p Program) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := p.Run(ctx, os.Stdout, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", p.Service, err)
		os.Exit(1)
	}
}

// Run does what args say: serve if there are none. It refuses what a command does not take before it does anything, so that
// an option that does not exist cannot be passed over. Help goes to out.
func (p Program) Run(ctx context.Context, out io.Writer, args []string) error {
	if len(args) == 0 {
		return p.Serve(ctx)
	}
	commands := p.commands()
	if args[0] == "help" || AsksForHelp(args[:1]) {
		return help(out, commands)
	}
	name, args := args[0], args[1:]
	at := slices.IndexFunc(commands, func(c Command) bool { return c.Name == name })
	switch {
	case at < 0:
		return fmt.Errorf("unknown command %q: %s", name, names(commands))
	case AsksForHelp(args):
		return help(out, commands)
	case len(args) > 0 && !commands[at].TakesArguments:
		return fmt.Errorf("%s: does not take %q", name, args[0])
	}
	return commands[at].Run(ctx, out, args)
}

// AsksForHelp is whether one of the arguments of a command asks what it can be told. A word without a dash does not: it may
// be the argument itself.
func AsksForHelp(args []string) bool {
	return slices.ContainsFunc(args, func(arg string) bool { return arg == "--help" || arg == "-h" })
}

func (p Program) commands() []Command {
	alone := func(name, does string, run func(context.Context) error) Command {
		return Command{Name: name, Usage: fmt.Sprintf("%-28s %s", name, does), Run: func(ctx context.Context, _ io.Writer, _ []string) error { return run(ctx) }}
	}
	return slices.Concat([]Command{
		alone("serve", "run the service; the default", p.Serve),
		alone("migrate", "bring the schema up to date", p.migrate),
	}, p.More, []Command{
		alone("healthcheck", "ask the copy that runs beside it whether it is alive", func(ctx context.Context) error { return Healthcheck(ctx, p.Service) }),
		alone("readycheck", "ask it whether it can answer", func(ctx context.Context) error { return Readycheck(ctx, p.Service) }),
	})
}

func (p Program) migrate(ctx context.Context) error {
	if p.Migrate != nil {
		return p.Migrate(ctx)
	}
	return Migrate(ctx, p.Service)
}

func help(out io.Writer, commands []Command) error {
	for _, command := range commands {
		if _, err := fmt.Fprintln(out, command.Usage); err != nil {
			return err
		}
	}
	return nil
}

func names(commands []Command) string {
	all := make([]string, 0, len(commands))
	for _, command := range commands {
		all = append(all, command.Name)
	}
	last := len(all) - 1
	return strings.Join(all[:last], ", ") + " or " + all[last]
}
