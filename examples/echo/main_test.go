package echo_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

// bin is the folder of the two programs.
var bin string

// TestMain builds the programs, and fails the package if its tests leave
// goroutines behind. Each test waits for the processes it starts.
func TestMain(m *testing.M) {
	before := runtime.NumGoroutine()
	code, err := buildAndRun(m)
	for deadline := time.Now().Add(5 * time.Second); err == nil && runtime.NumGoroutine() > before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			err = fmt.Errorf("goroutines leaked:\n%s", stacks[:runtime.Stack(stacks, true)])
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func buildAndRun(m *testing.M) (code int, err error) {
	if bin, err = os.MkdirTemp("", "echo"); err != nil {
		return 1, err
	}
	defer os.RemoveAll(bin)
	build := exec.Command("go", "build", "-o", bin+string(filepath.Separator), "./server", "./client")
	if out, err := build.CombinedOutput(); err != nil {
		return 1, fmt.Errorf("go build: %w\n%s", err, out)
	}
	return m.Run(), nil
}
