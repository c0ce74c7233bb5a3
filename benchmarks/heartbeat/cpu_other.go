//go:build !linux

package main

import "time"

var began = time.Now()

// cpuTime is the time that has passed: measurements are taken on Linux.
func cpuTime() time.Duration { return time.Since(began) }
