package main

import (
	"time"

	"golang.org/x/sys/unix"
)

// usageOf is what a process has used so far.
type usageOf struct {
	cpu      time.Duration // user and system time
	switches int64         // voluntary context switches
}

func usage() (usageOf, error) {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return usageOf{}, err
	}
	return usageOf{
		cpu:      time.Duration(u.Utime.Nano() + u.Stime.Nano()),
		switches: int64(u.Nvcsw),
	}, nil
}

// threadCPU returns the CPU time of the calling thread.
func threadCPU() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t) != nil {
		return 0
	}
	return time.Duration(t.Nano())
}
