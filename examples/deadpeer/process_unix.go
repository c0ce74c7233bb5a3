//go:build unix

package main

import "syscall"

// freeze stops the process where it stands. Its kernel goes on without it.
func (p *process) freeze() error { return p.cmd.Process.Signal(syscall.SIGSTOP) }

// openFiles returns how many files a process may open. The runtime raises the
// soft limit to the hard one.
func openFiles() (uint64, error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, err
	}
	return uint64(limit.Cur), nil
}
