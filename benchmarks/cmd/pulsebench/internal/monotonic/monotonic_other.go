//go:build !linux

// Package monotonic reads the clock that all processes of a machine share.
package monotonic

import "time"

var base = time.Now()

// Now is the time since the start of the process in nanoseconds. Load is
// generated on Linux only; elsewhere nothing is compared across processes.
func Now() int64 { return int64(time.Since(base)) }
