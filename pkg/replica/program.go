package replica

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/sentryagent/agentidp/pkg/config"
)

// Program is what the program of a service can be told to do.
type Program struct {
	Serve       func(context.Context) error
	Migrate     func(context.Context, ...config.Option) error
	Healthcheck func(context.Context) error
	Readycheck  func(context.Context) error
	// More are the commands that this service alone has.
	More []Command
}

// Command is one of them.
type Command struct {
	Name string
	// Usage tells of it in the help, in lines that begin with its name.
	Usage string
	// TakesArguments is false for a command that is refused with any.
	TakesArguments bool
	// Run gets what follows the name.
	Run func(ctx context.Context, args []string) error
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
	return commands[at].Run(ctx, args)
}

// AsksForHelp is whether one of the arguments of a command asks what it can be told. A word without a dash does not: it may
// be the argument itself.
func AsksForHelp(args []string) bool {
	return slices.ContainsFunc(args, func(arg string) bool { return arg == "--help" || arg == "-h" })
}

func (p Program) commands() []Command {
	alone := func(name, does string, run func(context.Context) error) Command {
		return Command{Name: name, Usage: fmt.Sprintf("%-28s %s", name, does), Run: func(ctx context.Context, _ []string) error { return run(ctx) }}
	}
	return slices.Concat([]Command{
		alone("serve", "run the service; the default", p.Serve),
		alone("migrate", "bring the schema up to date", func(ctx context.Context) error { return p.Migrate(ctx) }),
	}, p.More, []Command{
		alone("healthcheck", "ask the copy that runs beside it whether it is alive", p.Healthcheck),
		alone("readycheck", "ask it whether it can answer", p.Readycheck),
	})
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
