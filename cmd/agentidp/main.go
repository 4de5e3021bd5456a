// Command agentidp is the operators' binary: it runs the whole system on one machine for development,
// and creates the first operator of a deployment. It must not serve anything in production; that is
// what the services' own binaries are for.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/sentryagent/agentidp/cmd/agentidp/internal/command"
)

// oneKeystroke is how long further signals count as the same one: wrappers such as timeout(1) deliver it
// twice, to the process and to its group.
const oneKeystroke = 500 * time.Millisecond

func main() {
	signalled, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signalled.Done()
		<-time.After(oneKeystroke)
		stop() // the next signal ends the process at once
	}()
	// A console that is gone (dev | tee, ended by the same Ctrl-C) must not cut the shutdown short.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	ctx, hangUp := context.WithCancel(signalled)
	go stopWithTerminal(hangUp)
	root := command.New(command.Console{Out: os.Stdout, Err: os.Stderr, Environ: os.LookupEnv})
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "agentidp: %v\n", err)
		os.Exit(exitCode(err))
	}
}

// exitCode is 1, or what the error says.
func exitCode(err error) int {
	var known interface{ ExitCode() int }
	if errors.As(err, &known) {
		return known.ExitCode()
	}
	return 1
}

// stopWithTerminal ends the program when its terminal is closed. SIGHUP alone does not mean that: it also
// tells the services to read their policy again. A terminal that is gone fails every write, even of nothing.
func stopWithTerminal(stop func()) {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	for range hangup {
		if _, err := os.Stdout.Write(nil); errors.Is(err, syscall.EIO) {
			stop()
		}
	}
}
