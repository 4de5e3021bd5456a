package rig

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// stopTimeout is how long a program may take to end after SIGTERM: as long as Kubernetes waits, unless told otherwise, and
// longer than the services' own SHUTDOWN_TIMEOUT.
const stopTimeout = 30 * time.Second

// child is a program that this one started.
type child struct {
	name string
	cmd  *exec.Cmd
	log  string // path of the file with its output
	done chan struct{}
}

// startChild starts a program in a process group of its own, so that a Ctrl-C in the terminal reaches only this program,
// which then stops everything in the right order; should this program be killed, the child ends too.
func startChild(name, logPath string, cmd *exec.Cmd) (*child, error) {
	output, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600) // #nosec G304 -- in our own directory
	if err != nil {
		return nil, fmt.Errorf("log of %s: %w", name, err)
	}
	defer func() { _ = output.Close() }()
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = attributes()
	c := &child{name: name, cmd: cmd, log: logPath, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the parent-death signal is sent when the thread ends that made the child
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
			close(c.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return c, nil
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// stop asks the program to end, and kills it when it does not.
func (c *child) stop() error {
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-c.done:
	case <-time.After(stopTimeout):
		_ = c.cmd.Process.Kill()
		<-c.done
		return fmt.Errorf("%s did not end within %s of SIGTERM", c.name, stopTimeout)
	}
	if code := c.cmd.ProcessState.ExitCode(); code != 0 {
		return fmt.Errorf("%s ended with %s: %s", c.name, c.cmd.ProcessState, c.lastWords())
	}
	return nil
}

// ended is an error when the program runs no more.
func (c *child) ended() error {
	select {
	case <-c.done:
		return fmt.Errorf("%s has ended (%s): %s", c.name, c.cmd.ProcessState, c.lastWords())
	default:
		return nil
	}
}

// lastWords is the end of the program's output.
func (c *child) lastWords() string {
	const most = 4 << 10
	content, err := os.ReadFile(c.log)
	if err != nil {
		return err.Error()
	}
	return string(content[max(0, len(content)-most):])
}

// trimLog empties a log that has grown large: the programs append, so they go on at its beginning.
func trimLog(path string) error {
	const most = 64 << 20
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) || err == nil && info.Size() < most {
		return nil
	}
	if err != nil {
		return err
	}
	return os.Truncate(path, 0)
}
