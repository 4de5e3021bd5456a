// Command withservers runs a command with a Postgres and a Redis server of its own, in a temporary
// directory: it starts both, sets TEST_DATABASE_URL and TEST_REDIS_URL, runs what stands after --
// with its standard input and output passed through, stops the servers whatever happens, and exits
// with the command's exit code (or 125 when the servers or the command could not be started).
//
//	withservers [-install] -- go test ./...
//
// A URL that is set already is kept, and its server not started. A server program that is missing
// is installed first with -install, as root on Debian and its kin; without it the variable stays
// unset, and the tests find servers for themselves or skip. It never touches servers that run already.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/sentryagent/agentidp/pkg/devservers"
)

const (
	exitNotStarted = 125
	postgresEnv    = "TEST_DATABASE_URL"
	redisEnv       = "TEST_REDIS_URL"
	passwordEnv    = "TEST_DB_PASSWORD" // #nosec G101 -- the name of a variable
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	flags := flag.NewFlagSet("withservers", flag.ContinueOnError)
	install := flags.Bool("install", false, "install server programs that are missing")
	if err := flags.Parse(args); err != nil || flags.NArg() == 0 {
		say("usage: withservers [-install] -- command [argument...]")
		return exitNotStarted
	}
	// The command gets Ctrl-C from the terminal itself; what is left to do here is to stop the servers.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	servers, err := start(ctx, *install)
	defer servers.stop()
	if err != nil {
		say("%v", err)
		return exitNotStarted
	}
	code, err := execute(ctx, flags.Args(), servers.environ)
	if err != nil {
		say("%v", err)
	}
	return code
}

// servers are what was started; each undo takes back one thing.
type servers struct {
	environ []string
	undo    []func()
}

func (s *servers) stop() {
	for i := len(s.undo) - 1; i >= 0; i-- {
		s.undo[i]()
	}
}

func start(ctx context.Context, install bool) (*servers, error) {
	s := &servers{environ: os.Environ()}
	if missing := devservers.Missing(); install && len(missing) > 0 {
		if err := devservers.Install(ctx, os.Stderr, missing); err != nil {
			return s, err
		}
	}
	dir, err := os.MkdirTemp("", "agentidp-withservers-")
	if err != nil {
		return s, fmt.Errorf("directory for the servers: %w", err)
	}
	s.undo = append(s.undo, func() { _ = os.RemoveAll(dir) })
	for _, server := range []struct {
		env   string
		start func(context.Context, string) (url string, stop func(), err error)
	}{{postgresEnv, s.postgres}, {redisEnv, redis}} {
		if os.Getenv(server.env) != "" {
			continue
		}
		url, stop, err := server.start(ctx, dir)
		if errors.Is(err, devservers.ErrNotFound) {
			say("%v; %s stays unset", err, server.env)
			continue
		}
		if err != nil {
			return s, err
		}
		s.undo = append(s.undo, stop)
		s.environ = append(s.environ, server.env+"="+url)
	}
	return s, nil
}

func (s *servers) postgres(ctx context.Context, dir string) (string, func(), error) {
	password := rand.Text()
	server, err := devservers.StartPostgres(ctx, devservers.PostgresConfig{Dir: filepath.Join(dir, "postgres"), Password: password})
	if err != nil {
		return "", nil, err
	}
	s.environ = append(s.environ, passwordEnv+"="+password)
	stop := server.Stop
	if data := server.Dir(); filepath.Dir(data) != dir { // not reachable for the server's user
		stop = func() { server.Stop(); _ = os.RemoveAll(data) }
	}
	return server.AdminURL(), stop, nil
}

func redis(ctx context.Context, dir string) (string, func(), error) {
	server, err := devservers.StartRedis(ctx, devservers.RedisConfig{Dir: filepath.Join(dir, "redis")})
	if err != nil {
		return "", nil, err
	}
	return server.URL(), server.Stop, nil
}

// execute answers the exit code of the command; 128 + n, as shells do, when signal n ended it.
func execute(ctx context.Context, command, environ []string) (int, error) {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...) // #nosec G204 -- what the caller asked for
	cmd.Env = environ
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, nil
	case errors.As(err, &exit):
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			return 128 + int(status.Signal()), nil
		}
		return exit.ExitCode(), nil
	default:
		return exitNotStarted, err
	}
}

func say(format string, args ...any) {
	_, _ = fmt.Fprintf(os.Stderr, "withservers: "+format+"\n", args...)
}
