package main

import (
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"
)

// mainVar makes the test binary the program under test.
const mainVar = "PULSEWHEEL_DEADPEER_MAIN"

// TestMain fails the package if its tests leave goroutines behind. That no
// process is left is for the tests that start some to see.
func TestMain(m *testing.M) {
	if os.Getenv(mainVar) != "" || os.Getenv(specVar) != "" {
		main()
		os.Exit(0)
	}
	before := runtime.NumGoroutine()
	code := m.Run()
	for deadline := time.Now().Add(5 * time.Second); code == 0 && runtime.NumGoroutine() > before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			fmt.Fprintf(os.Stderr, "goroutines leaked:\n%s\n", stacks[:runtime.Stack(stacks, true)])
			code = 1
		}
	}
	os.Exit(code)
}
