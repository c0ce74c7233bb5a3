//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// residentOf returns a process's resident memory, quickly: the kernel's
// counters may be off by some hundred kilobytes.
func residentOf(pid string) (int64, error) {
	text, err := os.ReadFile("/proc/" + pid + "/statm")
	if err != nil {
		return 0, err
	}
	var size, resident int64
	if _, err := fmt.Sscan(string(text), &size, &resident); err != nil {
		return 0, fmt.Errorf("statm: %w", err)
	}
	return resident * int64(os.Getpagesize()), nil
}

// descriptorsOf returns the numbers of a process's descriptors, in order.
func descriptorsOf(pid int) (fds []int, err error) {
	entries, err := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/fd")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil {
			fds = append(fds, fd)
		}
	}
	slices.Sort(fds)
	return fds, nil
}

// limitLeaving returns the limit of descriptors under which so many numbers are
// free, given those that are not.
func limitLeaving(free int, used []int) uint64 {
	limit := 0
	for _, fd := range used {
		if fd-limit >= free {
			break
		}
		free -= fd - limit
		limit = fd + 1
	}
	return uint64(limit + free)
}

// processorTimeOf returns how long a process has been on a processor.
func processorTimeOf(pid int) time.Duration {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	// After the name, which may hold anything: state is field 3, utime 14.
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * (time.Second / 100) // USER_HZ
}

// machineTime returns for how long all processors together were at processes'
// work.
func machineTime() time.Duration {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(text), "\n")
	// Of all processors; what interrupts took is counted to processes, too.
	var user, nice, system, idle, iowait, irq, softirq int64
	_, _ = fmt.Sscanf(line, "cpu %d %d %d %d %d %d %d", &user, &nice, &system, &idle, &iowait, &irq, &softirq)
	return time.Duration(user+nice+system+irq+softirq) * (time.Second / 100)
}

// limitFiles sets a process's soft limit of descriptors, and returns the one
// before.
func limitFiles(pid int, soft uint64) (before uint64, err error) {
	var old unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &old); err != nil {
		return 0, os.NewSyscallError("prlimit", err)
	}
	changed := old
	changed.Cur = min(soft, old.Max)
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &changed, nil); err != nil {
		return 0, os.NewSyscallError("prlimit", err)
	}
	return old.Cur, nil
}

// socketOption reads an option that is an array of words.
func socketOption(fd, level, name int, words []uint32) bool {
	size := uint32(4 * len(words))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name),
		uintptr(unsafe.Pointer(&words[0])), uintptr(unsafe.Pointer(&size)), 0)
	return errno == 0 && size > 0
}

// bindLate lets the kernel choose a port for a bound address only when it
// connects, so that one port serves connections to different listeners.
func bindLate(fd uintptr, receive int) (err error) {
	_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	if receive > 0 {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, receive)
	}
	return os.NewSyscallError("setsockopt", err)
}

// yieldToOthers makes all threads of this process run only when nobody else wants
// to (sched(7), SCHED_IDLE). Threads to come inherit that.
func yieldToOthers() error {
	idle := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}
	done := make(map[string]bool)
	for again := true; again; {
		again = false
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return err
		}
		for _, t := range tasks {
			if done[t.Name()] {
				continue
			}
			done[t.Name()], again = true, true
			id, err := strconv.Atoi(t.Name())
			if err != nil {
				return err
			}
			if err := unix.SchedSetAttr(id, &idle, 0); err != nil && !errors.Is(err, unix.ESRCH) {
				return os.NewSyscallError("sched_setattr", err)
			}
		}
	}
	return nil
}
