//go:build !unix

package engine_test

import "time"

// cpuTime returns nothing: no engine runs on this system.
func cpuTime() time.Duration { return 0 }
