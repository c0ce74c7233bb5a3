package engine_test

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestMain fails the package if a goroutine or a descriptor outlives the tests.
func TestMain(m *testing.M) {
	fds := openFiles()
	code := m.Run()
	if code == 0 {
		if err := leaked(fds); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// leaked waits for what is still ending, then reports what did not.
func leaked(fdsBefore int) error {
	var stacks string
	var fds int
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		stacks, fds = foreignGoroutines(), openFiles()
		if stacks == "" && fds <= fdsBefore {
			return nil
		}
	}
	if stacks != "" {
		return fmt.Errorf("goroutines leaked:\n%s", stacks)
	}
	return fmt.Errorf("descriptors leaked: %d before the tests, %d after", fdsBefore, fds)
}

// foreignGoroutines returns the stacks of goroutines that are not the test
// runner's own.
func foreignGoroutines() string {
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	var foreign []string
	for i, g := range strings.Split(string(buf), "\n\n") {
		if i == 0 || strings.Contains(g, "testing.(*M).") || strings.Contains(g, "os/signal.") {
			continue
		}
		foreign = append(foreign, g)
	}
	return strings.Join(foreign, "\n\n")
}

// openFiles counts the process's descriptors, 0 where that cannot be told.
func openFiles() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	n := 0
	for _, e := range entries {
		// Go's own poller, made when the first test opens a net.Conn, stays.
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && (strings.HasPrefix(to, "socket:") || strings.HasPrefix(to, "pipe:")) {
			n++
		}
	}
	return n
}
