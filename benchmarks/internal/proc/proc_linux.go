package proc

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// start runs the command from a goroutine that keeps its thread until the
// child is gone, for two reasons: a child inherits the affinity of the thread
// that forked it, so none of its threads ever runs elsewhere; and the kernel
// takes the end of that thread, not of the process, for the parent's death.
func (p *Process) start(cpu int) error {
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p.cmd.WaitDelay = 10 * time.Second // for a grandchild that holds our stderr
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		restored, err := bound(cpu, p.cmd.Start)
		started <- err
		if err == nil {
			p.reap()
		}
		if restored {
			runtime.UnlockOSThread()
		} // else the thread ends with the goroutine, as it must not be reused
	}()
	return <-started
}

// bound calls f with the calling thread bound to one processor and reports
// whether the thread is as free as before.
func bound(cpu int, f func() error) (restored bool, err error) {
	if cpu == AnyCPU {
		return true, f()
	}
	var before, only unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return true, fmt.Errorf("sched_getaffinity: %w", err)
	}
	only.Set(cpu)
	if err := unix.SchedSetaffinity(0, &only); err != nil {
		return true, fmt.Errorf("sched_setaffinity to processor %d: %w", cpu, err)
	}
	err = f()
	return unix.SchedSetaffinity(0, &before) == nil, err
}

// reap waits for the end without collecting it at first, so that signals never
// go to an id that the system has already given away.
func (p *Process) reap() {
	for {
		err := unix.Waitid(unix.P_PID, p.PID(), nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	p.mu.Lock()
	_ = unix.Kill(-p.PID(), unix.SIGKILL) // what it may have left in its group
	p.reaped = true
	p.mu.Unlock()
	p.ended(p.cmd.Wait())
	close(p.done)
}

func (p *Process) signal(id int, s unix.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped {
		return fmt.Errorf("signal %s: %w", p.name, os.ErrProcessDone)
	}
	return os.NewSyscallError("kill", unix.Kill(id, s))
}

func (p *Process) terminate() { _ = p.signal(p.PID(), unix.SIGTERM) }
func (p *Process) kill()      { _ = p.signal(-p.PID(), unix.SIGKILL) }

// Collect sends the collect signal of package control.
func (p *Process) Collect() error { return p.signal(p.PID(), unix.SIGUSR1) }

// Suspend stops the process, with all its threads, until Continue.
func (p *Process) Suspend() error { return p.signal(p.PID(), unix.SIGSTOP) }

// Continue ends what Suspend began.
func (p *Process) Continue() error { return p.signal(p.PID(), unix.SIGCONT) }

// Memory returns what the process occupies now. The kernel's quick counters
// are kept per processor and may be off by hundreds of kilobytes, so the page
// tables are walked instead; only Peak is a counter.
func (p *Process) Memory() (Usage, error) {
	var u Usage
	dir := "/proc/" + strconv.Itoa(p.PID())
	err := fields(dir+"/smaps_rollup", map[string]*int64{"Rss": &u.RSS, "Anonymous": &u.Anonymous})
	if err == nil {
		err = fields(dir+"/status", map[string]*int64{"VmHWM": &u.Peak})
	}
	if err != nil {
		return Usage{}, fmt.Errorf("memory of %s: %w", p.name, err)
	}
	u.Peak = max(u.Peak, u.RSS)
	return u, nil
}

// fields reads lines of the form "Name:   123 kB" and stores them in bytes.
func fields(path string, into map[string]*int64) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	found := 0
	for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
		name, rest, _ := bytes.Cut(s.Bytes(), []byte(":"))
		to, wanted := into[string(name)]
		if !wanted {
			continue
		}
		kb, err := strconv.ParseInt(string(bytes.TrimSpace(bytes.TrimSuffix(rest, []byte("kB")))), 10, 64)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		*to = kb << 10
		found++
	}
	if found != len(into) {
		return fmt.Errorf("%d of %d values found in %s", found, len(into), path)
	}
	return nil
}

// CPUs lists the processors this process may use.
func CPUs() ([]int, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, fmt.Errorf("sched_getaffinity: %w", err)
	}
	var cpus []int
	for i := 0; len(cpus) < set.Count(); i++ {
		if set.IsSet(i) {
			cpus = append(cpus, i)
		}
	}
	return cpus, nil
}

// CPUTime is what all threads of the process have used so far.
func (p *Process) CPUTime() (time.Duration, error) {
	// The kernel's clock of a process: CPUCLOCK_SCHED of its inverted id.
	clock := int32(^p.PID()<<3 | 2)
	var t unix.Timespec
	if err := unix.ClockGettime(clock, &t); err != nil {
		return 0, fmt.Errorf("CPU clock of %s: %w", p.name, err)
	}
	return time.Duration(t.Nano()), nil
}
