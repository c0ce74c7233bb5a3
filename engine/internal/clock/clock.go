// Package clock is the engine's monotonic clock: nanoseconds since the process
// began, as cheap as Go can read them.
//
// On Linux it stands still while the machine is suspended (CLOCK_MONOTONIC,
// clock_gettime(2)), so a peer that vanished before a suspend is found by its
// deadline as counted in waking time.
package clock

import "time"

var start = time.Now()

// Now returns the nanoseconds since the process began. It never goes back.
func Now() int64 { return int64(time.Since(start)) }
