package devservers

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	startTimeout = 60 * time.Second
	stopTimeout  = 20 * time.Second
	loopback     = "127.0.0.1"
	tailBytes    = 8 << 10
)

// process is a server program that ends when this program ends, however that happens.
type process struct {
	name string
	cmd  *exec.Cmd
	tail *tailWriter
	done chan struct{}
}

// startProcess starts cmd in a process group of its own, so that a Ctrl-C in the terminal reaches
// only this program, which stops its servers in the right order.
func startProcess(name string, cmd *exec.Cmd, log io.Writer) (*process, error) {
	p := &process{name: name, cmd: cmd, tail: &tailWriter{next: log}, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p.tail, p.tail
	cmd.WaitDelay = time.Second
	started := make(chan error, 1)
	go func() {
		// Linux sends the parent-death signal when the thread that made the child ends, not the
		// process: this thread is kept until the child is gone.
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return p, nil
}

// stop sends the polite signal, and kills after stopTimeout.
func (p *process) stop(polite os.Signal) {
	_ = p.cmd.Process.Signal(polite)
	select {
	case <-p.done:
	case <-time.After(stopTimeout):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// waitReady asks ready until it answers nil; it gives up when the process ended, when ready
// answers an error that is permanent, or after startTimeout.
func (p *process) waitReady(done <-chan struct{}, ready func() error) error {
	deadline := time.NewTimer(startTimeout)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready()
		if err == nil {
			return nil
		}
		var fatal permanentError
		if errors.As(err, &fatal) {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended while starting; its last words:\n%s", p.name, p.tail.String())
		case <-done:
			return fmt.Errorf("%s: start was cancelled", p.name)
		case <-deadline.C:
			return fmt.Errorf("%s took no connection within %s: %w; its last words:\n%s", p.name, startTimeout, err, p.tail.String())
		case <-tick.C:
		}
	}
}

// permanentError is an answer of a server that waiting does not change.
type permanentError struct{ error }

func (e permanentError) Unwrap() error { return e.error }

// tailWriter passes a server's output on and keeps its end for an error message.
type tailWriter struct {
	mu   sync.Mutex
	next io.Writer
	kept []byte
}

func (t *tailWriter) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = append(t.kept, b...)
	if over := len(t.kept) - tailBytes; over > 0 {
		t.kept = append(t.kept[:0], t.kept[over:]...)
	}
	if t.next != nil {
		_, _ = t.next.Write(b) // a log that cannot be written must not stop the server
	}
	return len(b), nil
}

func (t *tailWriter) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.kept))
}

// Free ports are looked for below the range (32768 and up) from which Linux serves outgoing connections, so that none of
// those can take a port between choosing and listening, nor while a server is down for a restart.
const (
	lowestPort  = 10000
	highestPort = 20000
)

// freePort finds a port of 127.0.0.1 that nobody listens on. Another program may take it before it
// is used, which is unlikely.
func freePort() (int, error) {
	var err error
	for range 100 {
		port := lowestPort + rand.IntN(highestPort-lowestPort) //nolint:gosec // no secret, only spread
		if err = requireFree(port); err == nil {
			return port, nil
		}
	}
	return 0, fmt.Errorf("find a free port: %w", err)
}

// requireFree fails when somebody listens on the port, before a server is started that could not. It looks for a moment
// longer: a process that is being forked elsewhere in this program holds every open socket until it runs its own program.
func requireFree(port int) error {
	var err error
	for range 25 {
		var l net.Listener
		if l, err = net.Listen("tcp", net.JoinHostPort(loopback, strconv.Itoa(port))); err == nil { //nolint:noctx // returns at once
			return l.Close()
		}
		<-time.After(20 * time.Millisecond)
	}
	return fmt.Errorf("port %d cannot be used: %w", port, err)
}

// stopLeftover ends the server that an earlier run left on a data directory: the process of the
// pid file, if it works in that directory and is such a program. Anything else is not touched.
func stopLeftover(pidFile, dir, program string, polite syscall.Signal) error {
	raw, err := os.ReadFile(pidFile) // #nosec G304 -- inside of our data directory
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", pidFile, err)
	}
	first, _, _ := strings.Cut(string(raw), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil || pid <= 1 || pid == os.Getpid() || !isServer(pid, dir, program) {
		return removeStale(pidFile)
	}
	if err := syscall.Kill(pid, polite); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("stop the %s (pid %d) that an earlier run left: %w", program, pid, err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(stopTimeout); time.Now().Before(deadline); <-tick.C {
		if !isServer(pid, dir, program) {
			return removeStale(pidFile)
		}
	}
	return fmt.Errorf("the %s (pid %d) that an earlier run left on %s does not stop", program, pid, dir)
}

func removeStale(pidFile string) error {
	if err := os.Remove(pidFile); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", pidFile, err)
	}
	return nil
}

// isServer says whether pid is a process of that program that works in dir.
func isServer(pid int, dir, program string) bool {
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	name, err := os.ReadFile(filepath.Join(proc, "comm")) // #nosec G304 -- procfs
	if err != nil || !strings.HasPrefix(strings.TrimSpace(string(name)), program) {
		return false
	}
	cwd, err := os.Readlink(filepath.Join(proc, "cwd"))
	if err != nil {
		return false
	}
	actual, err := filepath.EvalSymlinks(dir)
	return err == nil && cwd == actual
}
