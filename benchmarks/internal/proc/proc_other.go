//go:build !linux

package proc

import (
	"errors"
	"fmt"
	"time"
)

var errLinux = fmt.Errorf("measuring processes needs Linux: %w", errors.ErrUnsupported)

func (p *Process) start(int) error { return errLinux }
func (p *Process) terminate()      {}
func (p *Process) kill()           {}

// Collect sends the collect signal of package control.
func (p *Process) Collect() error { return errLinux }

// Suspend stops the process until Continue.
func (p *Process) Suspend() error { return errLinux }

// Continue ends what Suspend began.
func (p *Process) Continue() error { return errLinux }

// Memory returns what the process occupies now.
func (p *Process) Memory() (Usage, error) { return Usage{}, errLinux }

// CPUs lists the processors this process may use.
func CPUs() ([]int, error) { return nil, errLinux }

// CPUTime is what all threads of the process have used so far.
func (p *Process) CPUTime() (time.Duration, error) { return 0, errLinux }
