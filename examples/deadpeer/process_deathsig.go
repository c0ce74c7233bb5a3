//go:build linux || freebsd

package main

import (
	"os/exec"
	"syscall"
)

// prepare gives the child a process group of its own, out of reach of the
// terminal's Ctrl-C, and has it killed when the thread that starts it ends.
func prepare(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	return nil
}
