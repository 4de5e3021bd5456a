package testkit

import (
	"os/exec"
	"syscall"
)

// detach takes cmd out of the terminal's process group, so that a Ctrl-C ends the test and not the
// shell that cleans up after it.
func detach(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }
