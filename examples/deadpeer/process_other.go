//go:build !unix

package main

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
)

var errNoSignals = fmt.Errorf("peers are frozen by SIGSTOP, which %s does not have: %w", runtime.GOOS, errors.ErrUnsupported)

func prepare(*exec.Cmd) error { return errNoSignals }

func (p *process) freeze() error { return errNoSignals }

func openFiles() (uint64, error) { return 0, errNoSignals }
