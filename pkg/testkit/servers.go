package testkit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/sentryagent/agentidp/pkg/devservers"
)

const startTimeout = 90 * time.Second

// shared is a server that all tests of this process use. It starts with the first of them, and ends
// with the process.
type shared struct {
	once  sync.Once
	url   string
	err   error
	env   string
	start func(ctx context.Context) (string, error)
}

// The servers belong to the process and not to a test, so they are the one state that this package
// keeps.
//
//nolint:gochecknoglobals // see above
var (
	postgresServer = &shared{env: "TEST_DATABASE_URL", start: startPostgres}
	redisServer    = &shared{env: "TEST_REDIS_URL", start: startRedis}
)

// get answers the server's URL: from the environment, else of a container, else of a program of
// this machine. Without any of them the test is skipped, or fails where CI is set.
func (s *shared) get(tb testing.TB) string {
	tb.Helper()
	s.once.Do(func() {
		if s.url = os.Getenv(s.env); s.url != "" {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
		defer cancel()
		s.url, s.err = s.start(ctx)
	})
	if s.err != nil {
		unavailable(tb, s.env, s.err)
	}
	return s.url
}

// unavailable skips on a laptop; a missing server in CI would hide that nothing was tested.
func unavailable(tb testing.TB, env string, err error) {
	tb.Helper()
	stop := tb.Skipf
	if os.Getenv("CI") != "" {
		stop = tb.Fatalf
	}
	stop("no server to test with (set %s, start Docker, or install it): %v", env, err)
}

func startPostgres(ctx context.Context) (string, error) {
	return containerOrProgram(ctx, postgresContainer, func() (string, error) {
		dir, release, err := scratch("postgres")
		if err != nil {
			return "", err
		}
		server, err := devservers.StartPostgres(ctx, devservers.PostgresConfig{
			Dir: filepath.Join(dir, "data"), Password: rolePassword(""),
		})
		if err != nil {
			return "", errors.Join(err, release())
		}
		return server.AdminURL(), nil
	})
}

func startRedis(ctx context.Context) (string, error) {
	return containerOrProgram(ctx, redisContainer, func() (string, error) {
		dir, release, err := scratch("redis")
		if err != nil {
			return "", err
		}
		server, err := devservers.StartRedis(ctx, devservers.RedisConfig{Dir: dir})
		if err != nil {
			return "", errors.Join(err, release())
		}
		return server.URL(), nil
	})
}

// containerOrProgram starts a container where an engine answers, and a program of this machine where
// none does or where it cannot run the image, which may not be to be had.
func containerOrProgram(
	ctx context.Context, container func(context.Context) (string, error), program func() (string, error),
) (string, error) {
	var containerErr error
	if dockerAnswers(ctx) {
		var url string
		if url, containerErr = container(ctx); containerErr == nil {
			return url, nil
		}
	}
	url, err := program()
	if err != nil {
		return "", errors.Join(containerErr, err)
	}
	return url, nil
}

// scratch makes a directory that is removed when this process has ended, however it ends: a shell
// waits for the end of a pipe that only this process holds open. release removes it at once.
func scratch(name string) (dir string, release func() error, err error) {
	dir, err = os.MkdirTemp("", "agentidp-test-"+name+"-")
	if err != nil {
		return "", nil, fmt.Errorf("directory for %s: %w", name, err)
	}
	// The servers get a signal when this process ends; the second try is for what they still wrote.
	cmd := exec.Command("/bin/sh", "-c", `cat >/dev/null; sleep 1; rm -rf "$0"; sleep 5; rm -rf "$0"`, dir) //nolint:gosec,noctx // fixed script; outlives every context
	hold, err := cmd.StdinPipe()
	if err != nil {
		return "", nil, fmt.Errorf("directory for %s: %w", name, err)
	}
	detach(cmd)
	if err := cmd.Start(); err != nil {
		_ = hold.Close()
		return "", nil, fmt.Errorf("directory for %s: %w", name, err)
	}
	holds.Store(dir, hold) // a pipe nobody refers to would be closed by the garbage collector
	return dir, func() error { return os.RemoveAll(dir) }, nil
}

// holds keeps the pipes of scratch open as long as the process lives.
//
//nolint:gochecknoglobals // as the servers above
var holds sync.Map
