// Package leak checks that a package's tests leave nothing behind: no
// goroutine, no socket, pipe, eventfd, timerfd or epoll descriptor, and no
// child process.
package leak

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// patience is how long what ends by itself may take to do so.
const patience = 5 * time.Second

// Main runs the tests of m and exits, with a failure if something outlives
// them. It is called by TestMain.
func Main(m *testing.M) { os.Exit(Run(m.Run)) }

// Run is Main for a TestMain that has more to do: it calls run, and returns the
// code to exit with.
func Run(run func() int) int {
	before := Files()
	code := run()
	if fuzz := flag.Lookup("test.fuzz"); fuzz != nil && fuzz.Value.String() != "" {
		return code // the fuzzer has goroutines and processes of its own
	}
	if err := settle(before, patience); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, "leak:", err)
		code = 1
	}
	return code
}

// settle waits until nothing is left, or returns what is.
func settle(filesBefore int, limit time.Duration) error {
	for deadline := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
		stacks, files, processes := Goroutines(), Files(), children()
		late := time.Now().After(deadline)
		switch {
		case len(stacks) == 0 && files <= filesBefore && len(processes) == 0:
			return nil
		case !late:
		case len(processes) > 0:
			return fmt.Errorf("child processes %v are still there", processes)
		case len(stacks) > 0:
			return fmt.Errorf("%d goroutines are still there:\n\n%s", len(stacks), strings.Join(stacks, "\n\n"))
		default:
			return fmt.Errorf("%d descriptors before the tests, %d after", filesBefore, files)
		}
	}
}

// Goroutines returns the stacks of all goroutines but the caller's and those
// that the test runner and os/signal keep.
func Goroutines() (stacks []string) {
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	for _, stack := range strings.Split(string(buf), "\n\n")[1:] {
		if !strings.Contains(stack, "os/signal.loop") && !strings.Contains(stack, "testing.(*M).") {
			stacks = append(stacks, stack)
		}
	}
	return stacks
}
