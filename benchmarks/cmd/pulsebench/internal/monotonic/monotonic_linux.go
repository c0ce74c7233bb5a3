// Package monotonic reads the clock that all processes of a machine share.
package monotonic

import (
	"time"

	"golang.org/x/sys/unix"
)

// Go's own monotonic reading is of the same clock but counts from the start of
// the process. It needs no system call, so the difference is taken once.
var (
	base   = time.Now()
	offset = difference()
)

// difference is CLOCK_MONOTONIC at base. Of several tries the one counts that
// was least interrupted.
func difference() (best int64) {
	least := time.Duration(1<<63 - 1)
	for range 8 {
		before := time.Since(base)
		var t unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
			panic("pulsebench: no monotonic clock: " + err.Error())
		}
		after := time.Since(base)
		if gap := after - before; gap < least {
			least, best = gap, t.Nano()-int64(before+gap/2)
		}
	}
	return best
}

// Now is CLOCK_MONOTONIC in nanoseconds.
func Now() int64 { return offset + int64(time.Since(base)) }
