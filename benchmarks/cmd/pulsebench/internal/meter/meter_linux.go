package meter

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cpuClock is the clock of all threads of a process; clock_getcpuclockid(3)
// makes it the same way.
func cpuClock(pid int) int32 { return int32(^pid<<3 | 2) }

// CPU is the processor time that a process has used, in nanoseconds.
func CPU(pid int) (int64, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(cpuClock(pid), &t); err != nil {
		return 0, fmt.Errorf("CPU clock of process %d: %w", pid, err)
	}
	return t.Nano(), nil
}

// CPUs is the sum over several processes.
func CPUs(pids []int) (sum int64, err error) {
	for _, pid := range pids {
		ns, err := CPU(pid)
		if err != nil {
			return 0, err
		}
		sum += ns
	}
	return sum, nil
}

// Thread is the processor time that this thread has used, in nanoseconds.
func Thread() int64 {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t) != nil {
		return 0
	}
	return t.Nano()
}

// Own is the processor time that this process has used, in nanoseconds.
func Own() int64 {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t) != nil {
		return 0
	}
	return t.Nano()
}

// tick is the unit of /proc/stat: USER_HZ is 100 on every architecture of Go's.
const tick = 10 * time.Millisecond

// Machine is what all processors were busy with, in nanoseconds, by the
// kernel's coarse ticks; 0 if it cannot be told.
func Machine() int64 {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(text), "\n")
	fields := strings.Fields(line)
	sum := int64(0)
	for i, field := range fields {
		// user, nice, system, (idle, iowait,) irq, softirq, steal
		if i >= 1 && i <= 8 && i != 4 && i != 5 {
			n, _ := strconv.ParseInt(field, 10, 64)
			sum += n
		}
	}
	return sum * int64(tick)
}

// Memories is the memory of several processes together. The kernel's quick
// counters may be off by hundreds of kilobytes, so page tables are walked.
func Memories(pids []int) (sum Memory, err error) {
	for _, pid := range pids {
		dir := "/proc/" + strconv.Itoa(pid)
		rss, err := field(dir+"/smaps_rollup", "Rss:")
		if err != nil {
			return Memory{}, err
		}
		peak, err := field(dir+"/status", "VmHWM:")
		if err != nil {
			return Memory{}, err
		}
		sum.RSS += rss
		sum.Peak += max(peak, rss)
	}
	return sum, nil
}

// field reads a line of the form "Name:   123 kB", in bytes.
func field(path, name string) (int64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("memory: %w", err)
	}
	for line := range bytes.Lines(text) {
		rest, found := bytes.CutPrefix(line, []byte(name))
		if !found {
			continue
		}
		kb, err := strconv.ParseInt(string(bytes.TrimSpace(bytes.TrimSuffix(bytes.TrimSpace(rest), []byte("kB")))), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("memory: %s %s: %w", path, name, err)
		}
		return kb << 10, nil
	}
	return 0, fmt.Errorf("memory: %s has no %s", path, name)
}

// FileLimit is how many descriptors a process can have here.
func FileLimit() int {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil || limit.Max > 1<<30 {
		return 1 << 30
	}
	return int(limit.Max)
}
