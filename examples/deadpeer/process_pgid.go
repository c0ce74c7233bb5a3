//go:build unix && !linux && !freebsd

package main

import (
	"os/exec"
	"syscall"
)

// prepare gives the child a process group of its own, out of reach of the
// terminal's Ctrl-C. If this process dies the group is an orphan, and POSIX has
// an orphaned group with a stopped member get SIGHUP and SIGCONT; those that
// are not stopped see their standard input end.
func prepare(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return nil
}
