package clock

import "golang.org/x/sys/unix"

// offset is what the kernel's CLOCK_MONOTONIC, which Go's runtime reads too,
// showed when this process's clock showed zero, rounded up by less than the
// time between two readings, so that no timer set by it expires early.
var offset = func() int64 {
	before := Now()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic("clock_gettime(CLOCK_MONOTONIC): " + err.Error())
	}
	return ts.Nano() - before
}()

// Kernel converts a reading of Now to the kernel's CLOCK_MONOTONIC.
func Kernel(now int64) int64 { return now + offset }
