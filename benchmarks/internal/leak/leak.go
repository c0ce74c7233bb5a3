// Package leak checks that a package's tests leave nothing behind.
package leak

import (
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"
)

// Main runs the tests and fails if goroutines or child processes outlive them.
func Main(m *testing.M) {
	before := runtime.NumGoroutine()
	code := m.Run()
	if err := settle(before, 5*time.Second); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// settle waits until what ends by itself has ended.
func settle(before int, limit time.Duration) error {
	for deadline := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
		goroutines, processes := runtime.NumGoroutine(), children()
		switch {
		case goroutines <= before && len(processes) == 0:
			return nil
		case time.Now().Before(deadline):
		case len(processes) > 0:
			return fmt.Errorf("leak: child processes %v are still there", processes)
		default:
			stacks := make([]byte, 1<<20)
			stacks = stacks[:runtime.Stack(stacks, true)]
			return fmt.Errorf("leak: %d goroutines, %d before the tests\n%s", goroutines, before, stacks)
		}
	}
}
